// Errors of the standard library in words that a user knows.
#pragma once

#include <exception>
#include <string>

namespace dither {

/// What to tell a user about an exception: an Error's own text; of a file system's error the path and the reason; of a
/// thread that cannot be had and of memory the cure. No function names of the standard library.
std::string words_of(const std::exception& exception);

}  // namespace dither
