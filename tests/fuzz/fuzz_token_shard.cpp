// parse_shard_header() and TokenShards on any bytes, as a file in memory. What they accept is read whole; maximum,
// counts and fingerprint are held against the bytes themselves.
//
// The format leaves most of a header unused. Here its last 8 bytes are a second size for the same header, so that files
// of exabytes are tried too; and if the byte before them is not 0, the fingerprint is taken, which is slow.
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "src/data/token_shards.h"
#include "tests/fuzz/target.h"

namespace dither {
namespace {

constexpr int64_t kVocabulary = 1 << 30;  // between the 16 bits of all narrow tokens and the 32 of wide ones
constexpr int64_t kClaimed = kShardHeaderBytes - 8, kFingerprinted = kClaimed - 1;  // offsets

/// A file without a place on any disk.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : descriptor_(memfd_create("shard", MFD_CLOEXEC)) {
    if (descriptor_ < 0) throw std::runtime_error(std::string("memfd_create: ") + std::strerror(errno));
    if (write(descriptor_, data, size) != static_cast<ssize_t>(size)) {
      throw std::runtime_error(std::string("write to memory: ") + std::strerror(errno));
    }
  }
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::string path() const { return fmt::format("/proc/self/fd/{}", descriptor_); }

 private:
  int descriptor_;
};

/// Whether a file of so many bytes may begin with this header.
bool accepts_header(const uint8_t* data, int64_t file_bytes) {
  try {
    const ShardHeader header = parse_shard_header(data, file_bytes, "bytes");
    DITHER_ASSERT(header.bytes_per_token == 2 || header.bytes_per_token == 4);
    DITHER_ASSERT(header.tokens == (file_bytes - kShardHeaderBytes) / header.bytes_per_token);
    DITHER_ASSERT((file_bytes - kShardHeaderBytes) % header.bytes_per_token == 0);
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// Word by word from the bytes, with the width that the magic number says.
std::vector<uint32_t> tokens_of(const uint8_t* data, size_t size) {
  uint32_t magic = 0;
  std::memcpy(&magic, data, sizeof magic);
  const size_t width = magic == kShardMagic16 ? 2 : 4;
  std::vector<uint32_t> tokens((size - kShardHeaderBytes) / width);
  for (size_t i = 0; i < tokens.size(); ++i) {
    std::memcpy(&tokens[i], data + kShardHeaderBytes + i * width, width);  // little-endian: the rest stays 0
  }
  return tokens;
}

void check_reading(const TokenShards& shards, const std::vector<uint32_t>& tokens) {
  const auto count = static_cast<int64_t>(tokens.size());
  DITHER_ASSERT(shards.shards() == 1 && shards.tokens() == count);
  const bool fits = std::all_of(tokens.begin(), tokens.end(), [](uint32_t token) { return token < kVocabulary; });
  std::vector<int32_t> read(tokens.size());
  bool was_read = true;
  try {
    shards.read(0, 0, count, kVocabulary, read.data());
  } catch (const Error&) {
    was_read = false;
  }
  DITHER_ASSERT(was_read == fits);
  if (!fits) return;
  DITHER_ASSERT(std::equal(tokens.begin(), tokens.end(), read.begin(),
                           [](uint32_t a, int32_t b) { return static_cast<int64_t>(a) == b; }));
  shards.check(kVocabulary);
  for (const int32_t token : {read.empty() ? 0 : read.front(), read.empty() ? 0 : read.back()}) {
    DITHER_ASSERT(shards.count_of(0, 0, count, token) == std::count(read.begin(), read.end(), token));
    DITHER_ASSERT(shards.count_of(0, count, 0, token) == 0);
  }
}

void check_fingerprint(const TokenShards& shards, size_t size) {
  DITHER_ASSERT(shards.fingerprint().find(fmt::format(": {} bytes, ", size)) != std::string::npos);
}

}  // namespace

bool accepts(const uint8_t* data, size_t size) {
  const bool accepted = accepts_header(data, static_cast<int64_t>(size));
  int64_t claimed = 0;
  if (size >= kShardHeaderBytes) std::memcpy(&claimed, data + kClaimed, sizeof claimed);
  if (claimed >= kShardHeaderBytes) accepts_header(data, claimed);
  const MemoryFile file(data, size);
  try {
    const TokenShards shards(file.path());
    DITHER_ASSERT(accepted);
    check_reading(shards, tokens_of(data, size));
    if (data[kFingerprinted] != 0) check_fingerprint(shards, size);
  } catch (const Error&) {
    DITHER_ASSERT(!accepted);
  }
  return accepted;
}

}  // namespace dither
