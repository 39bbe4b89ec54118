// What a terminal and a log may be sent: text without control characters, and errors of the standard library in words
// that a user knows.
#pragma once

#include <exception>
#include <string>
#include <string_view>

namespace dither {

/// `text` with every byte that a terminal would obey instead of show written as \x1b: control characters but line
/// breaks and tabs, and bytes that are not UTF-8. For names, paths and values that others chose, and for all that is
/// printed.
std::string visible(std::string_view text);

/// What to tell a user about an exception: an Error's own text; of a file system's error the path and the reason; of a
/// thread that cannot be had and of memory the cure. No function names of the standard library.
std::string words_of(const std::exception& exception);

}  // namespace dither
