// Edit distance over dotted names (Damerau-Levenshtein, restricted to swaps of neighbours).

#include "src/config/spelling.h"

#include <algorithm>
#include <cstddef>

namespace dither {
namespace {

constexpr size_t kLongestTypo = 100;  // nobody misspells a longer name; keeps the quadratic table small

/// Letters to insert, delete, replace or swap until a becomes b.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));  // [prefix of a, prefix of b]
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      d[i][j] = std::min({replaced, d[i - 1][j] + 1, d[i][j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

std::string_view last_part(std::string_view path) { return path.substr(path.rfind('.') + 1); }  // npos + 1 = 0

}  // namespace

std::string nearest_name(std::string_view found, const std::vector<std::string>& candidates) {
  if (found.size() > kLongestTypo) return "";
  const std::string_view found_last = last_part(found);
  size_t best = std::max<size_t>(1, found_last.size() / 3) + 1;  // one more than what still is a typo
  std::string nearest;
  for (const std::string& candidate : candidates) {
    const size_t moved = edit_distance(found_last, last_part(candidate)) + 1;
    const size_t distance = std::min(edit_distance(found, candidate), moved);
    if (distance < best) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

}  // namespace dither
