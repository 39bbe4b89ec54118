// The rules of blame.h as sentences.
#include "src/parallel/blame.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace dither::star {
namespace {

std::string sentence(const Signs& rank, double timeout, bool silent) {
  return fmt::format("{} has made no progress for {:g} s{}{}", rank.name, timeout,
                     in_phase(rank.phase, "; its last phase: "),
                     silent ? "; it gives no sign of life: its process is stopped, or its node is lost" : "");
}

/// All phases with the ranks in them, for when the numbers do not tell who is behind.
std::string undecided(const std::vector<Signs>& ranks, double timeout) {
  std::map<std::string, std::string> ranks_by_phase;
  for (size_t i = 0; i < ranks.size(); ++i) {
    std::string& list = ranks_by_phase[ranks[i].phase.empty() ? "no phase yet" : ranks[i].phase];
    list += fmt::format("{}{}", list.empty() ? "" : ", ", i);
  }
  std::string text = fmt::format("no rank has made progress for {:g} s; last phases by rank:", timeout);
  for (const auto& [phase, list] : ranks_by_phase) text += fmt::format(" [{}] {};", list, phase);
  text.pop_back();
  return text;
}

}  // namespace

std::string in_phase(const std::string& phase, const char* words) { return phase.empty() ? "" : words + phase; }

std::string blame(const std::vector<Signs>& ranks, double timeout, double silence) {
  const auto quietest =
      std::max_element(ranks.begin(), ranks.end(), [](const Signs& a, const Signs& b) { return a.silent < b.silent; });
  if (quietest->silent >= timeout) return sentence(*quietest, timeout, true);
  if (std::any_of(ranks.begin(), ranks.end(), [&](const Signs& r) { return r.still < timeout; })) return "";
  if (quietest->silent >= silence) return sentence(*quietest, timeout, true);
  const auto less = [](const Signs& a, const Signs& b) { return a.progress < b.progress; };
  const auto last = std::min_element(ranks.begin(), ranks.end(), less);
  const auto equals =
      std::count_if(ranks.begin(), ranks.end(), [&](const Signs& r) { return r.progress == last->progress; });
  return equals == 1 ? sentence(*last, timeout, false) : undecided(ranks, timeout);
}

}  // namespace dither::star
