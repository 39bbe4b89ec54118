// Opening, checking and reading token shards: see token_shards.h and docs/data-format.md.
#include "src/data/token_shards.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <glob.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "base/error.h"
#include "src/config/computation.h"  // hash_text()

namespace dither {

static_assert(std::endian::native == std::endian::little, "shards are little-endian and are read in place");

namespace {

constexpr const char* kPrepareCure =
    "make shards with `dither tokenize` or scripts/prepare_data.py, or use llm.c's (docs/data-format.md)";

std::vector<std::string> matching_files(const std::string& pattern) {
  struct stat status {};
  if (stat(pattern.c_str(), &status) == 0) return {pattern};  // a name with [ or * in it still means itself

  glob_t found{};
  const int result = glob(pattern.c_str(), GLOB_NOSORT, nullptr, &found);
  std::vector<std::string> paths(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  globfree(&found);
  if (result == GLOB_NOSPACE || result == GLOB_ABORTED) {
    throw Error(fmt::format("{}: could not search for this pattern: {}", pattern, std::strerror(errno)));
  }
  if (paths.empty()) throw Error(fmt::format("{}: no file matches; {}", pattern, kPrepareCure));
  std::sort(paths.begin(), paths.end());  // by bytes: glob's own order depends on the locale
  return paths;
}

// One loop for both widths. The maximum is taken over the whole window without a branch, so that the loop vectorises;
// the position of an offender is looked for only once there is one.
template <typename Token>
int64_t copy_checked(const Token* tokens, int64_t count, int64_t vocabulary, int32_t* out) {
  Token largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    largest = std::max(largest, tokens[i]);
    out[i] = static_cast<int32_t>(tokens[i]);
  }
  if (static_cast<int64_t>(largest) < vocabulary) return -1;
  const auto beyond = [vocabulary](Token token) { return static_cast<int64_t>(token) >= vocabulary; };
  return std::find_if(tokens, tokens + count, beyond) - tokens;
}

}  // namespace

ShardHeader parse_shard_header(const unsigned char* header, int64_t file_bytes, const std::string& path) {
  if (file_bytes == 0) throw Error(fmt::format("{}: the file is empty; {}", path, kPrepareCure));
  if (file_bytes < kShardHeaderBytes) {
    throw Error(
        fmt::format("{}: truncated: {} bytes, but a token shard begins with a header of {}; copy or make it again",
                    path, file_bytes, kShardHeaderBytes));
  }
  uint32_t words[4];  // magic, version, count low, count high
  std::memcpy(words, header, sizeof words);

  if (words[0] != kShardMagic16 && words[0] != kShardMagic32) {
    throw Error(
        fmt::format("{}: not a token shard: its first word is {}, needs {} (uint16 tokens) or {} (uint32 tokens); {}",
                    path, words[0], kShardMagic16, kShardMagic32, kPrepareCure));
  }
  const bool narrow = words[0] == kShardMagic16;
  const uint32_t version = narrow ? kShardVersion16 : kShardVersion32;
  if (words[1] != version) {
    throw Error(
        fmt::format("{}: token shard of version {}, but with magic {} only version {} (uint{} tokens) is known; {}",
                    path, words[1], words[0], version, narrow ? 16 : 32, kPrepareCure));
  }

  const int width = narrow ? 2 : 4;
  const uint64_t promised = uint64_t{words[3]} << 32 | words[2];
  const int64_t body = file_bytes - kShardHeaderBytes;
  const int64_t held = body / width;
  if (promised != static_cast<uint64_t>(held) || body % width != 0) {
    const bool longer = promised <= static_cast<uint64_t>(held);
    throw Error(
        fmt::format("{}: {}: the header promises {} tokens of {} bytes, the file holds {} bytes after its header, "
                    "{}; copy or make it again",
                    path, longer ? "longer than its header says" : "truncated", promised, width, body,
                    body % width == 0 ? fmt::format("{} tokens", held) : fmt::format("{} tokens and a part", held)));
  }
  return {width, held};
}

MappedFile::MappedFile(const std::string& path) {
  const auto fail = [&path](const char* what) {
    throw Error(fmt::format("{}: could not {} the file: {}", path, what, std::strerror(errno)));
  };
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail("open");
  struct stat status {};
  const bool known = fstat(file, &status) == 0;
  if (known && !S_ISREG(status.st_mode)) {
    close(file);
    throw Error(fmt::format("{}: not a file; data paths name shards, for example {}/train_*.bin", path, path));
  }
  void* mapped = MAP_FAILED;
  if (known && status.st_size > 0) mapped = mmap(nullptr, status.st_size, PROT_READ, MAP_SHARED, file, 0);
  const int error = errno;
  close(file);  // a map outlives its descriptor
  errno = error;
  if (!known || (status.st_size > 0 && mapped == MAP_FAILED)) fail("map");
  if (status.st_size > 0) data_ = static_cast<const unsigned char*>(mapped);
  bytes_ = status.st_size;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<unsigned char*>(data_), bytes_);
}

TokenShards::TokenShards(const std::string& pattern) : pattern_(pattern) {
  for (const std::string& path : matching_files(pattern)) {
    MappedFile file(path);
    const ShardHeader header = parse_shard_header(file.data(), file.bytes(), path);
    shards_.push_back({path, std::move(file), header});
  }
}

int64_t TokenShards::tokens() const {
  int64_t sum = 0;
  for (const Shard& shard : shards_) sum += shard.header.tokens;
  return sum;
}

void TokenShards::read(int64_t shard, int64_t first, int64_t count, int64_t vocabulary, int32_t* out) const {
  DITHER_ASSERT(shard >= 0 && shard < shards() && first >= 0 && count >= 0 && first <= tokens(shard) - count);
  DITHER_ASSERT(vocabulary <= std::numeric_limits<int32_t>::max());  // so that a token that passes fits in `out`
  const Shard& from = shards_[shard];
  const unsigned char* body = from.file.data() + kShardHeaderBytes;
  int64_t offender = -1;
  if (from.header.bytes_per_token == 2) {
    offender = copy_checked(reinterpret_cast<const uint16_t*>(body) + first, count, vocabulary, out);
  } else {
    offender = copy_checked(reinterpret_cast<const uint32_t*>(body) + first, count, vocabulary, out);
  }
  if (offender < 0) return;
  throw Error(
      fmt::format("{}: token {} at position {} (counted from 0), but the vocabulary has {} tokens (0 to {}); set "
                  "model.vocabulary to that of the tokenizer that made the shard, or make the shard again",
                  from.path, static_cast<uint32_t>(out[offender]), first + offender, vocabulary, vocabulary - 1));
}

void TokenShards::check(int64_t vocabulary) const {
  constexpr int64_t kPiece = 1 << 16;  // tokens at a time: stays in cache
  std::vector<int32_t> piece(static_cast<size_t>(kPiece));
  for (int64_t s = 0; s < shards(); ++s) {
    for (int64_t first = 0; first < tokens(s); first += kPiece) {
      read(s, first, std::min(kPiece, tokens(s) - first), vocabulary, piece.data());
    }
  }
}

std::string TokenShards::fingerprint() const {
  constexpr int64_t kBlock = 4096, kBlocks = 64;  // 256 KiB a shard: milliseconds, and what tells copies apart
  std::string text;
  for (const Shard& shard : shards_) {
    const int64_t bytes = shard.file.bytes(), last = std::max<int64_t>(0, bytes - kBlock);
    std::string sample;
    for (int64_t i = 0; i < kBlocks; ++i) {
      const int64_t begin = last * i / (kBlocks - 1), count = std::min(kBlock, bytes - begin);
      sample.append(reinterpret_cast<const char*>(shard.file.data()) + begin, static_cast<size_t>(count));
    }
    text += fmt::format("{}: {} bytes, {}\n", shard.path.substr(shard.path.rfind('/') + 1), bytes, hash_text(sample));
  }
  return text;
}

int64_t TokenShards::count_of(int64_t shard, int64_t first, int64_t count, int32_t token) const {
  DITHER_ASSERT(shard >= 0 && shard < shards() && first >= 0 && count >= 0 && first <= tokens(shard) - count);
  const Shard& from = shards_[shard];
  const unsigned char* body = from.file.data() + kShardHeaderBytes;
  if (from.header.bytes_per_token == 2) {
    const uint16_t* tokens = reinterpret_cast<const uint16_t*>(body) + first;
    return std::count_if(tokens, tokens + count, [token](uint16_t id) { return id == token; });
  }
  const uint32_t* tokens = reinterpret_cast<const uint32_t*>(body) + first;
  return std::count(tokens, tokens + count, static_cast<uint32_t>(token));
}

}  // namespace dither
