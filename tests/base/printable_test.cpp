// Bytes from outside as text for a terminal.
#include "base/printable.h"

#include <string>

#include "tests/catch.h"

namespace dither {

// Catches: overlong forms and surrogates let through, a beginning of a character that swallows the next one, an escape
// sequence, CSI as the single character U+009B, a newline or a tab that is lost.
TEST_CASE("printable text is UTF-8 without control characters but newline and tab") {
  const std::string bad = "\xEF\xBF\xBD";
  const auto check = [](const std::string& text, const std::string& shown) {
    INFO(text);
    CHECK(printable(text) == shown);
    CHECK(printable(shown) == shown);
  };
  check("plain\n\ttext", "plain\n\ttext");
  check("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xEE\x80\x80", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xEE\x80\x80");
  check(std::string("\x1B[2J\0\r\x7F", 7), "\xE2\x90\x9B[2J\xE2\x90\x80\xE2\x90\x8D\xE2\x90\xA1");
  check("\xC2\x9B\xC2\xA0", bad + "\xC2\xA0");  // CSI; no-break space
  check(
      "a\xE2\x82"
      "b\xE2",
      "a" + bad + "b" + bad);  // cut: one each
  check("\xC0\x80\xED\xA0\x80\xF4\x90\x80\x80", bad + bad + bad + bad + bad + bad + bad + bad + bad);
  check("\x80\xFF", bad + bad);
  check("\xF0\x9F\x98", bad);
}

}  // namespace dither
