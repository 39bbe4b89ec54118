// Reading and writing of safetensors: offsets and sizes held against the file, the mapping, the file that appears
// whole.
#include "src/checkpoint/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>  // fmt::join
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>  // quoting of text
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "src/checkpoint/file_system.h"
#include "src/checkpoint/safetensors_header.h"  // the JSON of the header

namespace dither {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors elements are copied as they lie in memory");

constexpr int64_t kLengthBytes = 8;               // the header's length before the header
constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own library
constexpr int64_t kHeaderAlignment = 8;  // of what we write: a mapped file's elements then lie on their own size

struct TypeRow {
  SafetensorsType type;
  const char* name;
  int64_t bytes;
};
constexpr TypeRow kTypes[] = {
    {SafetensorsType::f64, "F64", 8},         {SafetensorsType::i64, "I64", 8},
    {SafetensorsType::u64, "U64", 8},         {SafetensorsType::f32, "F32", 4},
    {SafetensorsType::i32, "I32", 4},         {SafetensorsType::u32, "U32", 4},
    {SafetensorsType::f16, "F16", 2},         {SafetensorsType::bf16, "BF16", 2},
    {SafetensorsType::i16, "I16", 2},         {SafetensorsType::u16, "U16", 2},
    {SafetensorsType::f8_e4m3, "F8_E4M3", 1}, {SafetensorsType::f8_e5m2, "F8_E5M2", 1},
    {SafetensorsType::i8, "I8", 1},           {SafetensorsType::u8, "U8", 1},
    {SafetensorsType::boolean, "BOOL", 1},
};

const TypeRow& row_of(SafetensorsType type) {
  const TypeRow& row = kTypes[static_cast<size_t>(type)];
  DITHER_ASSERT(row.type == type);
  return row;
}

const TypeRow& type_of(const SafetensorsHeader::Tensor& found, const std::string& origin) {
  std::vector<std::string> names;
  for (const TypeRow& row : kTypes) {
    if (found.type == row.name) return row;
    names.push_back(row.name);
  }
  throw Error(fmt::format("{}: tensor {} has the dtype {}\n       allowed: {}", origin, shown_text(found.name),
                          shown_text(found.type), fmt::join(names, ", ")));
}

/// One tensor of the header with its own facts checked; where it lies among the others is for the caller to see.
SafetensorsTensor checked(const SafetensorsHeader::Tensor& found, const std::string& origin) {
  const std::string who = "tensor " + shown_text(found.name);
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (found.keys.count(key) == 0) fail_safetensors(origin, fmt::format("{} has no {}", who, key));
  }
  const TypeRow& row = type_of(found, origin);
  const std::string place = fmt::format("data_offsets [{}]", fmt::join(found.offsets, ","));
  const std::string shape = fmt::format("the shape [{}] of {}", fmt::join(found.shape, ","), row.name);
  if (found.offsets.size() != 2 || found.offsets[0] > found.offsets[1]) {
    fail_safetensors(origin, fmt::format("{} has {}, needs [begin,end] with begin <= end", who, place));
  }
  int64_t bytes = row.bytes;
  for (const int64_t size : found.shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) {
      fail_safetensors(origin, fmt::format("{} has {}, more than 2^63-1 bytes", who, shape));
    }
  }
  if (found.offsets[1] - found.offsets[0] != bytes) {
    fail_safetensors(origin, fmt::format("{} has {}, {} bytes; {} needs {}", who, place,
                                         found.offsets[1] - found.offsets[0], shape, bytes));
  }
  return {found.name, row.type, found.shape, nullptr};
}

[[noreturn]] void fail_system(const std::string& path, const char* action) {
  throw Error(fmt::format("{}: cannot {}: {}", path, action, std::strerror(errno)));
}

std::string quoted(const std::string& text, const std::string& path) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    throw Error(fmt::format("{}: cannot be written: {} is not UTF-8", path, shown_text(text)));
  }
}

}  // namespace

std::string safetensors_header(const std::vector<SafetensorsTensor>& ordered,
                               const std::map<std::string, std::string>& metadata, const std::string& path) {
  std::vector<std::string> parts;
  for (const auto& [key, text] : metadata) parts.push_back(quoted(key, path) + ":" + quoted(text, path));
  std::vector<std::string> entries;
  if (!metadata.empty()) entries.push_back(fmt::format("\"{}\":{{{}}}", kSafetensorsMetadata, fmt::join(parts, ",")));
  int64_t end = 0;
  for (const SafetensorsTensor& tensor : ordered) {
    const int64_t begin = end;
    end += tensor.bytes();
    entries.push_back(fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                                  quoted(tensor.name, path), name_of(tensor.type), fmt::join(tensor.shape, ","), begin,
                                  end));
  }
  std::string header = fmt::format("{{{}}}", fmt::join(entries, ","));
  while (static_cast<int64_t>(header.size()) % kHeaderAlignment != 0) header += ' ';
  if (static_cast<int64_t>(header.size()) > kMaxHeaderBytes) {
    throw Error(fmt::format("{}: cannot be written: its header would have {} bytes, at most {} are allowed", path,
                            header.size(), kMaxHeaderBytes));
  }
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header;
}

int64_t size_of(SafetensorsType type) { return row_of(type).bytes; }
const char* name_of(SafetensorsType type) { return row_of(type).name; }

int64_t SafetensorsTensor::elements() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

SafetensorsContents parse_safetensors(const std::byte* bytes, int64_t size, const std::string& origin) {
  if (size < kLengthBytes) {
    fail_safetensors(origin, fmt::format("the file has {} bytes, needs at least {}", size, kLengthBytes));
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes, sizeof(length));
  const uint64_t room = static_cast<uint64_t>(std::min(size - kLengthBytes, kMaxHeaderBytes));
  if (length > room) {
    fail_safetensors(
        origin, fmt::format("the header's length is {}, at most {} is allowed here (the file has {} bytes)", length,
                            room, size));
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes) + kLengthBytes, length);
  SafetensorsHeader read = read_safetensors_header(header, origin);
  // By begin, then end: an empty tensor stands before the one that begins at the same place.
  std::stable_sort(read.tensors.begin(), read.tensors.end(),
                   [](const auto& a, const auto& b) { return a.offsets < b.offsets; });
  const std::byte* data = bytes + kLengthBytes + length;
  const int64_t data_bytes = size - kLengthBytes - static_cast<int64_t>(length);
  SafetensorsContents contents;
  int64_t end = 0;
  for (const SafetensorsHeader::Tensor& found : read.tensors) {
    contents.tensors.push_back(checked(found, origin));
    if (found.offsets[0] != end) {
      fail_safetensors(origin, fmt::format("tensor {} begins at data byte {}, needs {}, where the one before it ends",
                                           shown_text(found.name), found.offsets[0], end));
    }
    end = found.offsets[1];
    if (end > data_bytes) break;
    contents.tensors.back().data = data + found.offsets[0];
  }
  if (end != data_bytes) {
    fail_safetensors(origin, fmt::format("the tensors need {} bytes of data, the file has {}", end, data_bytes));
  }
  contents.metadata = std::move(read.metadata);
  return contents;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe would wait for its writer
  if (descriptor < 0) fail_system(path, "be opened");
  struct stat status = {};
  const bool known = fstat(descriptor, &status) == 0;
  if (known && S_ISREG(status.st_mode) && status.st_size > 0) {
    size_ = static_cast<size_t>(status.st_size);
    mapping_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
  }
  const int failure = errno;
  close(descriptor);  // the mapping stays
  errno = failure;
  if (!known || mapping_ == MAP_FAILED) fail_system(path, "be mapped into memory");
  if (!S_ISREG(status.st_mode)) throw Error(path + ": not a file, needs a safetensors file");
  try {
    contents_ = parse_safetensors(static_cast<const std::byte*>(mapping_), static_cast<int64_t>(size_), path);
  } catch (...) {
    if (mapping_ != nullptr) munmap(mapping_, size_);
    throw;
  }
}

SafetensorsFile::~SafetensorsFile() { munmap(mapping_, size_); }

const SafetensorsTensor* SafetensorsFile::find(const std::string& name) const {
  const auto found = std::find_if(tensors().begin(), tensors().end(), [&](const auto& t) { return t.name == name; });
  return found == tensors().end() ? nullptr : &*found;
}

const SafetensorsTensor& SafetensorsFile::at(const std::string& name) const {
  const SafetensorsTensor* tensor = find(name);
  if (tensor == nullptr) {
    throw Error(fmt::format("{}: has no tensor {} among its {}", path_, shown_text(name), tensors().size()));
  }
  return *tensor;
}

void write_safetensors(const std::string& path, const std::vector<SafetensorsTensor>& tensors,
                       const std::map<std::string, std::string>& metadata, FileSystem& files) {
  std::set<std::string> names = {kSafetensorsMetadata};
  for (const SafetensorsTensor& tensor : tensors) DITHER_ASSERT(names.insert(tensor.name).second);
  std::vector<SafetensorsTensor> ordered = tensors;
  std::stable_sort(ordered.begin(), ordered.end(), [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    return size_of(a.type) > size_of(b.type);
  });
  const std::string header = safetensors_header(ordered, metadata, path), partial = path + ".partial";
  try {
    const std::unique_ptr<OutputFile> file = files.create(partial);
    file->write(header.data(), static_cast<int64_t>(header.size()));
    for (const SafetensorsTensor& tensor : ordered) file->write(tensor.data, tensor.bytes());
    file->sync();
    files.rename(partial, path);
  } catch (...) {
    unlink(partial.c_str());  // what went wrong before is what is told
    throw;
  }
  files.sync_folder(std::filesystem::path(path).parent_path().string());
}

}  // namespace dither
