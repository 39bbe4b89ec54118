// The JSON header of a safetensors file, read but not yet held against the file (safetensors.h says what it looks
// like).
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace dither {

constexpr const char* kSafetensorsMetadata = "__metadata__";  // the one key of the header that is no tensor

struct SafetensorsHeader {
  struct Tensor {
    std::string name;
    std::set<std::string> keys;  // of "dtype", "shape", "data_offsets": those that are there
    std::string type;
    std::vector<int64_t> shape;
    std::vector<int64_t> offsets;
  };
  std::vector<Tensor> tensors;  // as written
  std::map<std::string, std::string> metadata;
};

/// Names are unique, keys and the kinds of their values are as they must be, numbers are from 0 to 2^63-1; no more is
/// checked. Throws Error on anything else, naming `origin`.
SafetensorsHeader read_safetensors_header(std::string_view json, const std::string& origin);

/// Text of a file as a message may show it: in quotes, short, without control characters.
std::string shown_text(std::string_view text);

[[noreturn]] void fail_safetensors(const std::string& origin, const std::string& what);

}  // namespace dither
