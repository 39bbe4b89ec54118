#include "base/printable.h"

#include <fmt/format.h>

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

/// The text with every part that must not be sent (a control character but newline and tab, or what is no character)
/// replaced by what `replacement` makes of it.
template <typename Replacement>
std::string replaced(std::string_view text, Replacement replacement) {
  std::string shown;
  while (!text.empty()) {
    const Character c = first_of(text);
    const std::string_view part = text.substr(0, c.bytes);
    const auto lead = static_cast<uint8_t>(part[0]);
    const bool c0 = (lead < 0x20 && lead != '\n' && lead != '\t') || lead == 0x7F;
    const bool c1 = c.whole && lead == 0xC2 && static_cast<uint8_t>(part[1]) < 0xA0;
    shown += !c.whole || c0 || c1 ? replacement(part) : std::string(part);
    text.remove_prefix(c.bytes);
  }
  return shown;
}

}  // namespace

std::string printable(std::string_view text) {
  return replaced(text, [](std::string_view part) {
    const auto lead = static_cast<uint8_t>(part[0]);
    if (lead >= 0x80) return std::string(kReplacement);
    return std::string("\xE2\x90") + static_cast<char>(lead == 0x7F ? 0xA1 : 0x80 + lead);
  });
}

std::string visible(std::string_view text) {
  return replaced(text, [](std::string_view part) {
    std::string escaped;
    for (const char c : part) escaped += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    return escaped;
  });
}

}  // namespace dither
