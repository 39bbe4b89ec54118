// A corpus as files of token ids in llm.c's formats (docs/data-format.md).
//
//   bytes 0..1023   header of 256 little-endian words of 32 bits: magic, version, low and high half of the token count
//   bytes 1024..    the tokens: uint16 under magic 20240520, version 1; uint32 under magic 20240801, version 7
//
// Counts and positions are 64-bit throughout. One corpus may mix both widths. Tokens are read by offset when they are
// asked for (shard_files.h), so a file that has become shorter or cannot be read is an Error then.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/data/shard_files.h"

namespace dither {

constexpr int64_t kShardHeaderBytes = 1024;
constexpr uint32_t kShardMagic16 = 20240520, kShardVersion16 = 1;  // llm.c's "gpt-2" shards
constexpr uint32_t kShardMagic32 = 20240801, kShardVersion32 = 7;  // llm.c's "llama-3" shards

struct ShardHeader {
  int bytes_per_token;  // 2 or 4
  int64_t tokens;
};

/// Checks a shard's header against the size of its file; `header` holds min(file_bytes, 1024) bytes.
/// Throws Error: empty or truncated file, wrong magic or version, a count that does not match the size.
ShardHeader parse_shard_header(const unsigned char* header, int64_t file_bytes, const std::string& path);

/// The files that a path or glob names, in the order of their names' bytes; none where nothing matches. Throws Error
/// where the search itself fails.
std::vector<std::string> matching_files(const std::string& pattern);

/// All shards that a path or glob ("data/x/train_*.bin") names, in the order of their names' bytes.
/// Every method is const and may be called from several threads at once.
class TokenShards {
 public:
  /// Throws Error: nothing matches, not a regular file, no permission, and what parse_shard_header() refuses.
  explicit TokenShards(const std::string& pattern);

  const std::string& pattern() const { return pattern_; }
  int64_t shards() const { return static_cast<int64_t>(headers_.size()); }
  int64_t tokens() const;                                                 // of all shards
  int64_t tokens(int64_t shard) const { return headers_[shard].tokens; }  // of one
  const std::string& path(int64_t shard) const { return files_.path(shard); }

  /// Copies the tokens [first, first + count) of a shard, which must lie inside it, to `out`.
  /// Throws DataError naming file and position if one of them is `vocabulary` or more (every token that is used is
  /// checked), or cannot be read.
  void read(int64_t shard, int64_t first, int64_t count, int64_t vocabulary, int32_t* out) const;

  /// Reads every token once, as read() does: so that a bad one is heard before a run begins and not in its midst.
  void check(int64_t vocabulary) const;

  /// A shard's size, and XXH3 of its header, its end and a sample of what lies between: "1030 bytes, 9f2c...".
  std::string digest(int64_t shard) const;

  /// A line for each shard: name without folder, and digest. Ranks compare it: the same text, the same data.
  std::string fingerprint() const;

  /// How many of the tokens [first, first + count) equal `token`.
  int64_t count_of(int64_t shard, int64_t first, int64_t count, int32_t token) const;

 private:
  /// Calls take(tokens, their count, where the first of them stands) for [first, first + count) piece by piece.
  template <class Take>
  void for_pieces(int64_t shard, int64_t first, int64_t count, const Take& take) const;

  std::string pattern_;
  ShardFiles files_;
  std::vector<ShardHeader> headers_;  // of each file
};

}  // namespace dither
