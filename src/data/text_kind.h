// What is not plain text but may be handed over as such: archives, documents, other encodings, records. Tokenized as
// they are, they train a model whose loss says nothing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace dither {

constexpr std::string_view kUtf8ByteOrderMark = "\xEF\xBB\xBF";

/// Throws Error where a file that begins with `start` (its first MiB, or all of it) is not plain text: by its magic
/// bytes, a byte order mark of UTF-16 or UTF-32, or lines that are JSON objects with a text in them. The message has
/// the command that makes text of it.
void check_begins_as_text(const std::string& path, std::string_view start);

/// Throws Error where a piece of a file, which begins at `offset`, holds a zero byte.
void check_has_no_zero(const std::string& path, std::string_view piece, int64_t offset);

}  // namespace dither
