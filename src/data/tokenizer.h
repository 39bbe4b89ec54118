// Token ids to text and back, from `tokenizer.bin` beside the shards: the byte string of every token.
//
//   bytes 0..1023   header of 256 little-endian uint32: magic 20240328, version, vocabulary V, id of end of text
//   bytes 1024..    V times: length of the token's byte string, then its bytes
//                   version 2 (llm.c's): lengths are uint8; version 3 (ours, for longer tokens): uint16
//
// Ids of a byte-pair vocabulary rise with the order in which the merges were learned, so the byte strings are all that
// encoding needs: of all neighbours whose joined bytes are a token, the one with the lowest id is merged first. For
// ASCII text and a vocabulary trained with GPT-2's split this gives the ids of the Hugging Face `tokenizers` library
// (docs/data-format.md says what differs otherwise).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dither {

constexpr int64_t kTokenizerHeaderBytes = 1024;
constexpr uint32_t kTokenizerMagic = 20240328;

class Tokenizer {
 public:
  /// Reads a tokenizer.bin. Throws Error: missing, empty or truncated file, wrong magic or version, bytes left over.
  explicit Tokenizer(const std::string& path);

  /// The same from memory; `origin` names it in messages. Any bytes give a tokenizer or an Error.
  static Tokenizer parse(std::string_view file, const std::string& origin);

  int64_t vocabulary() const { return static_cast<int64_t>(starts_.size()) - 1; }
  int32_t end_of_text() const { return end_of_text_; }
  /// The file that it was read from.
  const std::string& origin() const { return origin_; }

  /// Whether a token has this id: end of text, or one that stands for bytes. False outside the vocabulary.
  bool has_token(int32_t id) const;

  /// XXH3 of what serialize() gives: tokenizers are the same if and only if it is.
  std::string fingerprint() const;

  /// The byte strings of the tokens, one after the other. Throws Error for an id outside the vocabulary.
  std::string decode(std::span<const int32_t> ids) const;

  /// Bytes of text that a token stands for: the divisor of bits per byte. End of text stands for none.
  int64_t byte_length(int32_t id) const { return id == end_of_text_ ? 0 : static_cast<int64_t>(bytes_of(id).size()); }

  /// Ids of a text; never gives end of text, however the text reads. Time grows with the square of the longest word.
  /// Throws Error where the text has a byte that is no token.
  std::vector<int32_t> encode(std::string_view text) const;

  /// The content of a tokenizer.bin that parse() reads back: version 2, or 3 where a token needs it.
  std::string serialize() const;

  friend Tokenizer byte_tokenizer();

 private:
  Tokenizer(std::string bytes, std::vector<int64_t> starts, int32_t end_of_text, std::string origin);
  std::string_view bytes_of(int32_t id) const;
  int32_t find(std::string_view bytes) const;  // id, or -1
  void encode_piece(std::string_view piece, std::vector<int32_t>& ids) const;

  std::string bytes_;              // all byte strings, one after the other
  std::vector<int64_t> starts_;    // [V + 1] token id is bytes_[starts_[id], starts_[id + 1])
  std::vector<int32_t> by_bytes_;  // ids of distinct byte strings in their order, for find(); without end of text
  int32_t end_of_text_ = 0;
  std::string origin_;
};

/// The built-in tokenizer: ids 0..255 are the bytes, 256 is end of text; vocabulary 257. No file, no licence.
Tokenizer byte_tokenizer();

/// Where the tokenizer of a shard lies: tokenizer.bin in the shard's folder.
std::string tokenizer_path_beside(const std::string& shard_path);

/// Length of the piece that GPT-2's rule cuts from the front of a text that is not empty. Bytes above 127 count as
/// letters. Merges never cross a cut.
size_t gpt2_piece_length(std::string_view text);

}  // namespace dither
