// The one way to open a file whose path a user or another file names. A path may lead to a directory, a FIFO that never
// ends, a device or a file of terabytes: none of them is waited for or read.
#pragma once

#include <cstdint>
#include <string>

namespace dither {

/// What a file is taken for.
struct InputKind {
  const char* name;        // "a config"
  const char* needs;       // "a JSON file"
  int64_t most_bytes = 0;  // 0: any size
};

inline constexpr InputKind kConfigFile = {"a config", "a JSON file", 1 << 20};

/// A descriptor to read from, which the caller closes, of a regular file. Throws Error: `complaint` ("" : the path),
/// then what was found ("is a FIFO, needs a JSON file", "cannot be opened: ...", "has 5 bytes, at most 4 ...").
int open_input(const std::string& path, const InputKind& kind, const std::string& complaint = "");

/// All of it. A file that ends earlier than it said is read as far as it goes.
std::string read_input(const std::string& path, const InputKind& kind, const std::string& complaint = "");

/// From `offset` to the end, at most `most_bytes`; "" where the file is shorter.
std::string read_input_from(const std::string& path, const InputKind& kind, int64_t offset, int64_t most_bytes);

}  // namespace dither
