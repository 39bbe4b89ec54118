// parse_safetensors() on any bytes. What it accepts is used up to its last byte, written again and read back: the same
// tensors, and a second writing gives the same file.
#include <cstring>
#include <fstream>
#include <iterator>

#include "base/error.h"
#include "src/checkpoint/safetensors.h"
#include "tests/fuzz/target.h"

namespace dither {
namespace {

/// Touches every byte: one outside the file is AddressSanitizer's to report.
uint64_t sum_of(const SafetensorsTensor& tensor) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < tensor.bytes(); ++i) sum += std::to_integer<uint64_t>(tensor.data[i]);
  return sum;
}

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void check_same(const SafetensorsTensor& a, const SafetensorsTensor& b) {
  DITHER_ASSERT(a.name == b.name && a.type == b.type && a.shape == b.shape && a.bytes() == b.bytes());
  DITHER_ASSERT(a.bytes() == 0 || std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())) == 0);
}

void check_written_again(const SafetensorsContents& contents) {
  const std::string first = scratch_folder() + "/first.safetensors", second = scratch_folder() + "/second.safetensors";
  write_safetensors(first, contents.tensors, contents.metadata);
  const SafetensorsFile read(first);
  DITHER_ASSERT(read.tensors().size() == contents.tensors.size() && read.metadata() == contents.metadata);
  for (const SafetensorsTensor& tensor : contents.tensors) check_same(tensor, read.at(tensor.name));
  write_safetensors(second, read.tensors(), read.metadata());
  DITHER_ASSERT(bytes_of(first) == bytes_of(second));
}

}  // namespace

bool accepts(const uint8_t* data, size_t size) {
  SafetensorsContents contents;
  try {
    contents = parse_safetensors(reinterpret_cast<const std::byte*>(data), static_cast<int64_t>(size), "bytes");
  } catch (const Error&) {
    return false;
  }
  uint64_t sum = 0, expected = 0;
  int64_t bytes = 0;
  for (const SafetensorsTensor& tensor : contents.tensors) {
    sum += sum_of(tensor);
    bytes += tensor.bytes();
  }
  // They cover the end of the file without gap or overlap, so they add up to it.
  DITHER_ASSERT(bytes <= static_cast<int64_t>(size));
  for (size_t i = size - static_cast<size_t>(bytes); i < size; ++i) expected += data[i];
  DITHER_ASSERT(sum == expected);
  check_written_again(contents);
  return true;
}

}  // namespace dither
