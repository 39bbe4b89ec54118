// The safetensors format: named tensors in one file, for weights, checkpoints and the reference fixtures of the tests.
//
//   bytes 0 .. 7        N, the length of the header, little-endian
//   bytes 8 .. 8+N-1    JSON, filled up with spaces:
//                       { "__metadata__": {"key": "text", ...},
//                         "name": {"dtype": "BF16", "shape": [4,8], "data_offsets": [begin, end]}, ... }
//   the rest            elements, little-endian, [slowest, ..., contiguous]; offsets count from here
//
// A file is valid if and only if the header is at most 100,000,000 bytes, begins with '{' and has just these keys, each
// once; every size is the product of the shape times the element's; and the tensors, ordered by offset, cover the rest
// of the file from its first byte to its last without a gap or an overlap. Nothing of a file is trusted before all this
// holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "src/checkpoint/file_system.h"

namespace dither {

enum class SafetensorsType : uint8_t {
  f64,
  i64,
  u64,
  f32,
  i32,
  u32,
  f16,
  bf16,
  i16,
  u16,
  f8_e4m3,
  f8_e5m2,
  i8,
  u8,
  boolean
};

int64_t size_of(SafetensorsType type);      // bytes of one element
const char* name_of(SafetensorsType type);  // as the header writes it: "BF16"

/// A tensor, to be written or as read. The elements belong to the caller or to the file they were read from.
struct SafetensorsTensor {
  std::string name;
  SafetensorsType type = SafetensorsType::f32;
  std::vector<int64_t> shape;       // empty: a scalar
  const std::byte* data = nullptr;  // [shape]; in a foreign file it may lie at any address, so copy with memcpy

  int64_t elements() const;
  int64_t bytes() const { return elements() * size_of(type); }
};

struct SafetensorsContents {
  std::vector<SafetensorsTensor> tensors;  // in the order of their data
  std::map<std::string, std::string> metadata;
};

/// Checks the bytes of a whole file and says what they hold; the tensors point into `bytes`. `origin` names the file in
/// messages. Throws Error on anything that is not valid as said above.
SafetensorsContents parse_safetensors(const std::byte* bytes, int64_t size, const std::string& origin);

/// A safetensors file, mapped into memory as long as this lives. Whoever replaces the file must rename another over it,
/// as write_safetensors() does: a mapped file cut short in place ends the program (bus_error.h).
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);  // throws Error: not to be read, or not valid
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::vector<SafetensorsTensor>& tensors() const { return contents_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return contents_.metadata; }
  const SafetensorsTensor* find(const std::string& name) const;  // nullptr if there is none
  const SafetensorsTensor& at(const std::string& name) const;    // throws Error if there is none

 private:
  std::string path_;
  void* mapping_ = nullptr;
  size_t size_ = 0;
  SafetensorsContents contents_;
};

/// What stands before the data of tensors that lie in this order: the length and the JSON, filled up so that elements
/// of up to 8 bytes lie on their own size where larger ones come first. `path` names the file in messages. Throws Error
/// for text that is not UTF-8 and for a header too long.
std::string safetensors_header(const std::vector<SafetensorsTensor>& ordered,
                               const std::map<std::string, std::string>& metadata, const std::string& path);

/// Writes a file whole or not at all: under `path` + ".partial", synced, renamed to `path`, the folder synced.
/// Tensors are laid out by falling element size and else in the order given, so that each is aligned to its elements.
/// The same arguments give the same bytes. Throws Error (disk full, no such folder, text that is not UTF-8); then
/// `path` is as it was. Names must be unique and not "__metadata__".
void write_safetensors(const std::string& path, const std::vector<SafetensorsTensor>& tensors,
                       const std::map<std::string, std::string>& metadata, FileSystem& files = disk());

}  // namespace dither
