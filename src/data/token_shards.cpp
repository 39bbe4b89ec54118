// Opening, checking and reading token shards: see token_shards.h and docs/data-format.md.
#include "src/data/token_shards.h"

#include <fmt/format.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <utility>

#include "base/error.h"
#include "src/config/computation.h"  // hash_text()

namespace dither {

static_assert(std::endian::native == std::endian::little, "shards are little-endian and are not converted");

namespace {

namespace fs = std::filesystem;

constexpr const char* kPrepareCure =
    "make shards with `dither tokenize` or scripts/prepare_data.py, or use llm.c's (docs/data-format.md)";

/// Why a pattern may match nothing: what it means here and does not, and whether its folder is there.
std::string hints_for(const std::string& pattern) {
  const auto holds = [&pattern](const char* text) { return pattern.find(text) != std::string::npos; };
  std::string hints;
  if (pattern.front() != '/') hints += " (relative to " + fs::current_path().string() + ")";
  const size_t wild = pattern.find_first_of("*?["), slash = pattern.rfind('/', wild);
  const std::string folder = slash == std::string::npos ? "." : pattern.substr(0, slash + 1);
  std::error_code unknown;
  if (!fs::is_directory(folder, unknown)) {
    hints += "; there is no folder " + folder;
  } else if (access(folder.c_str(), R_OK | X_OK) != 0) {
    hints += "; the folder " + folder + " cannot be read: " + std::strerror(errno);
  }
  constexpr const char* kOne =
      "is not taken: give one pattern with * or ?, or put all shards (or links to them) into one folder";
  if (holds("{") && holds("}")) {
    hints += fmt::format("; {{a,b}} {}", kOne);
  } else if (holds(",")) {
    hints += fmt::format("; a list of paths {}", kOne);
  }
  if (holds("[")) hints += "; [abc] stands for one of these characters, write [[] for a bracket itself";
  if (holds("**")) hints += "; ** does not search folders within folders, it means *";
  if (pattern.front() == '~' || holds("$")) hints += "; ~ and $NAME are not replaced, write the path itself";
  return hints;
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
  std::sort(paths.begin(), paths.end());  // by bytes: glob's own order depends on the locale
  return paths;
}

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

TokenShards::TokenShards(const std::string& pattern) : pattern_(pattern) {
  const std::vector<std::string> paths = matching_files(pattern);
  if (paths.empty()) throw Error(fmt::format("{}: no file matches{}; {}", pattern, hints_for(pattern), kPrepareCure));
  for (const std::string& path : paths) {
    const int64_t file = files_.add(path), bytes = files_.bytes(file);
    unsigned char header[kShardHeaderBytes];
    files_.read(file, 0, std::min(bytes, kShardHeaderBytes), header);
    headers_.push_back(parse_shard_header(header, bytes, path));
  }
}

int64_t TokenShards::tokens() const {
  int64_t sum = 0;
  for (const ShardHeader& header : headers_) sum += header.tokens;
  return sum;
}

template <class Take>
void TokenShards::for_pieces(int64_t shard, int64_t first, int64_t count, const Take& take) const {
  DITHER_ASSERT(shard >= 0 && shard < shards() && first >= 0 && count >= 0 && first <= tokens(shard) - count);
  constexpr int64_t kPieceBytes = 1 << 15;  // on the stack, and in the first cache while it is converted
  const int64_t width = headers_[shard].bytes_per_token, most = kPieceBytes / width;
  alignas(uint32_t) unsigned char piece[kPieceBytes];
  for (int64_t done = 0; done < count; done += most) {
    const int64_t tokens = std::min(most, count - done), at = first + done;
    files_.read(shard, kShardHeaderBytes + at * width, tokens * width, piece);
    if (width == 2) {
      take(reinterpret_cast<const uint16_t*>(piece), tokens, at);
    } else {
      take(reinterpret_cast<const uint32_t*>(piece), tokens, at);
    }
  }
}

void TokenShards::read(int64_t shard, int64_t first, int64_t count, int64_t vocabulary, int32_t* out) const {
  DITHER_ASSERT(vocabulary <= std::numeric_limits<int32_t>::max());  // so that a token that passes fits in `out`
  for_pieces(shard, first, count, [&](const auto* tokens, int64_t number, int64_t at) {
    const int64_t offender = copy_checked(tokens, number, vocabulary, out);
    if (offender >= 0) {
      throw DataError(
          fmt::format("{}: token {} at position {} (counted from 0), but the vocabulary has {} tokens (0 to {}); set "
                      "model.vocabulary to that of the tokenizer that made the shard, or make the shard again",
                      path(shard), tokens[offender], at + offender, vocabulary, vocabulary - 1));
    }
    out += number;
  });
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

std::string TokenShards::digest(int64_t shard) const {
  constexpr int64_t kBlock = 4096, kBlocks = 64;  // 256 KiB a shard: milliseconds, and what tells copies apart
  const int64_t bytes = files_.bytes(shard), last = std::max<int64_t>(0, bytes - kBlock);
  std::string sample;
  for (int64_t i = 0; i < kBlocks; ++i) {
    const int64_t begin = last * i / (kBlocks - 1), count = std::min(kBlock, bytes - begin);
    const size_t before = sample.size();
    sample.resize(before + static_cast<size_t>(count));
    files_.read(shard, begin, count, sample.data() + before);
  }
  return fmt::format("{} bytes, {}", bytes, hash_text(sample));
}

std::string TokenShards::fingerprint() const {
  std::string text;
  for (int64_t shard = 0; shard < shards(); ++shard) {
    text += fmt::format("{}: {}\n", path(shard).substr(path(shard).rfind('/') + 1), digest(shard));
  }
  return text;
}

int64_t TokenShards::count_of(int64_t shard, int64_t first, int64_t count, int32_t token) const {
  int64_t equal = 0;
  for_pieces(shard, first, count, [&](const auto* tokens, int64_t number, int64_t) {
    equal += std::count_if(tokens, tokens + number, [token](auto id) { return static_cast<int64_t>(id) == token; });
  });
  return equal;
}

}  // namespace dither
