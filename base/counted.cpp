#include "base/counted.h"

namespace dither {

std::string with_commas(int64_t n) {
  std::string text = std::to_string(n);
  for (int64_t i = static_cast<int64_t>(text.size()) - 3; i > (n < 0 ? 1 : 0); i -= 3) {
    text.insert(static_cast<size_t>(i), ",");
  }
  return text;
}

std::string counted(int64_t n, const std::string& noun, const std::string& ending) {
  return with_commas(n) + " " + noun + (n == 1 ? "" : ending);
}

}  // namespace dither
