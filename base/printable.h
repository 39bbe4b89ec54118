// Text from outside (a model's sample, a name) as it may be shown: bytes that a terminal would obey are not sent to it.
#pragma once

#include <string>
#include <string_view>

namespace dither {

/// Valid UTF-8 without control characters but newline and tab. What is not UTF-8 becomes U+FFFD, one for each longest
/// beginning of a character (as W3C and Python decode); C0 controls and DEL become their pictures, U+2400 + c and
/// U+2421; C1 controls become U+FFFD.
std::string printable(std::string_view text);

/// For names, paths and values that others chose, and for messages: the same bytes written as \x1b, so that a reader
/// can tell one from another.
std::string visible(std::string_view text);

}  // namespace dither
