#include "base/printable.h"

#include <cstddef>
#include <cstdint>

namespace dither {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

struct Character {
  size_t bytes;  // of the character, or of what there is of one
  bool whole;
};

/// The character at the beginning of `text`, by table 3-7 of the Unicode Standard: no overlong forms, no surrogates,
/// nothing above U+10FFFF.
Character first_of(std::string_view text) {
  const auto at = [text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = at(0);
  if (lead < 0x80) return {1, true};
  const size_t bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4) return {1, false};
  uint8_t low = 0x80, high = 0xBF;  // of the second byte
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < bytes; ++i) {
    if (i >= text.size() || at(i) < low || at(i) > high) return {i, false};
    low = 0x80;
    high = 0xBF;
  }
  return {bytes, true};
}

}  // namespace

std::string printable(std::string_view text) {
  std::string shown;
  while (!text.empty()) {
    const Character c = first_of(text);
    const auto lead = static_cast<uint8_t>(text[0]);
    if (!c.whole || (lead == 0xC2 && static_cast<uint8_t>(text[1]) < 0xA0)) {
      shown += kReplacement;
    } else if ((lead < 0x20 && lead != '\n' && lead != '\t') || lead == 0x7F) {
      shown += "\xE2\x90";
      shown += static_cast<char>(lead == 0x7F ? 0xA1 : 0x80 + lead);
    } else {
      shown += text.substr(0, c.bytes);
    }
    text.remove_prefix(c.bytes);
  }
  return shown;
}

}  // namespace dither
