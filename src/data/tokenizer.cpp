// Reading, decoding and byte-pair encoding: see tokenizer.h and docs/data-format.md.
#include "src/data/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/input_file.h"
#include "src/config/computation.h"  // hash_text()

namespace dither {
namespace {

constexpr const char* kEndOfTextName = "<|endoftext|>";  // what the byte tokenizer prints for it, as GPT-2 does
constexpr const char* kCure = "make it again with `dither tokenize` or scripts/prepare_data.py";

std::string read_file(const std::string& path) {
  constexpr InputKind kTokenizer = {"a tokenizer", "a tokenizer.bin", 256 << 20};  // 65,000 times GPT-2's tokens
  try {
    return read_input(path, kTokenizer, "it");
  } catch (const Error& error) {
    throw Error(fmt::format("{}: could not open the tokenizer: {}; {}", path, error.what(), kCure));
  }
}

bool is_space(unsigned char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_digit(unsigned char c) { return c >= '0' && c <= '9'; }
bool is_letter(unsigned char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c >= 0x80; }
bool is_other(unsigned char c) { return !is_space(c) && !is_digit(c) && !is_letter(c); }

}  // namespace

Tokenizer::Tokenizer(const std::string& path) : Tokenizer(parse(read_file(path), path)) {}

Tokenizer Tokenizer::parse(std::string_view file, const std::string& origin) {
  const auto refuse = [&origin](const std::string& what) {
    throw Error(fmt::format("{}: {}; {}", origin, what, kCure));
  };
  if (static_cast<int64_t>(file.size()) < kTokenizerHeaderBytes) {
    refuse(fmt::format("truncated: {} bytes, but a tokenizer begins with a header of {}", file.size(),
                       kTokenizerHeaderBytes));
  }
  uint32_t words[4];  // magic, version, vocabulary, end of text
  std::memcpy(words, file.data(), sizeof words);
  const uint32_t magic = words[0], version = words[1], vocabulary = words[2], end_of_text = words[3];
  if (magic != kTokenizerMagic) {
    refuse(fmt::format("not a tokenizer: its first word is {}, needs {}", magic, kTokenizerMagic));
  }
  if (version != 2 && version != 3) refuse(fmt::format("tokenizer of version {}, needs 2 or 3", version));
  if (end_of_text >= vocabulary || vocabulary > static_cast<uint32_t>(std::numeric_limits<int32_t>::max())) {
    refuse(fmt::format("end of text is token {} of a vocabulary of {}", end_of_text, vocabulary));
  }

  std::string bytes;
  std::vector<int64_t> starts = {0};  // grows with what the file holds, not with what its header promises
  const size_t length_bytes = version == 2 ? 1 : 2;
  size_t at = kTokenizerHeaderBytes;
  for (uint32_t id = 0; id < vocabulary; ++id) {
    const auto need = [&](size_t count) {
      if (file.size() - at < count) refuse(fmt::format("truncated: it ends within token {} of {}", id, vocabulary));
    };
    need(length_bytes);
    size_t length = static_cast<unsigned char>(file[at]);
    if (version == 3) length |= static_cast<size_t>(static_cast<unsigned char>(file[at + 1])) << 8;
    at += length_bytes;
    need(length);
    bytes.append(file.substr(at, length));
    starts.push_back(static_cast<int64_t>(bytes.size()));
    at += length;
  }
  if (at != file.size()) {
    refuse(fmt::format("{} bytes are left after the last of {} tokens", file.size() - at, vocabulary));
  }
  return {std::move(bytes), std::move(starts), static_cast<int32_t>(end_of_text), origin};
}

Tokenizer::Tokenizer(std::string bytes, std::vector<int64_t> starts, int32_t end_of_text, std::string origin)
    : bytes_(std::move(bytes)), starts_(std::move(starts)), end_of_text_(end_of_text), origin_(std::move(origin)) {
  by_bytes_.resize(vocabulary());
  std::iota(by_bytes_.begin(), by_bytes_.end(), 0);
  std::erase_if(by_bytes_, [this](int32_t id) { return id == end_of_text_ || bytes_of(id).empty(); });
  // Stable, so that of several tokens with the same bytes the lowest id stands first and is the one kept.
  std::stable_sort(by_bytes_.begin(), by_bytes_.end(),
                   [this](int32_t a, int32_t b) { return bytes_of(a) < bytes_of(b); });
  const auto same = [this](int32_t a, int32_t b) { return bytes_of(a) == bytes_of(b); };
  by_bytes_.erase(std::unique(by_bytes_.begin(), by_bytes_.end(), same), by_bytes_.end());
}

std::string_view Tokenizer::bytes_of(int32_t id) const {
  if (id < 0 || id >= vocabulary()) {
    throw Error(
        fmt::format("{}: token {} is outside the tokenizer's vocabulary (0 to {}); the model was trained with "
                    "another tokenizer",
                    origin_, id, vocabulary() - 1));
  }
  return std::string_view(bytes_).substr(starts_[id], starts_[id + 1] - starts_[id]);
}

bool Tokenizer::has_token(int32_t id) const {
  return id >= 0 && id < vocabulary() && (id == end_of_text_ || starts_[id] < starts_[id + 1]);
}

std::string Tokenizer::fingerprint() const { return hash_text(serialize()); }

int32_t Tokenizer::find(std::string_view bytes) const {
  const auto at = std::lower_bound(by_bytes_.begin(), by_bytes_.end(), bytes,
                                   [this](int32_t id, std::string_view wanted) { return bytes_of(id) < wanted; });
  return at != by_bytes_.end() && bytes_of(*at) == bytes ? *at : -1;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) text += bytes_of(id);
  return text;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  while (!text.empty()) {
    const size_t length = gpt2_piece_length(text);
    encode_piece(text.substr(0, length), ids);
    text.remove_prefix(length);
  }
  return ids;
}

// Byte-pair encoding of one piece: parts begin as single bytes; again and again the neighbours whose union is the
// token of the lowest id become one part (the leftmost first), until no union is a token.
void Tokenizer::encode_piece(std::string_view piece, std::vector<int32_t>& ids) const {
  struct Part {
    size_t begin, end;
    int32_t id;      // the token of this part
    int32_t merged;  // the token of this part and the next together, or -1
  };
  std::vector<Part> parts;
  for (size_t i = 0; i < piece.size(); ++i) {
    const int32_t id = find(piece.substr(i, 1));
    if (id < 0) {
      throw Error(
          fmt::format("{}: no token stands for byte {:#04x}, so the text cannot be encoded; only byte-level "
                      "vocabularies, which have all 256 bytes, can encode",
                      origin_, static_cast<unsigned char>(piece[i])));
    }
    parts.push_back({i, i + 1, id, -1});
  }
  const auto union_with_next = [&](size_t i) {
    return i + 1 < parts.size() ? find(piece.substr(parts[i].begin, parts[i + 1].end - parts[i].begin)) : -1;
  };
  for (size_t i = 0; i < parts.size(); ++i) parts[i].merged = union_with_next(i);

  while (true) {
    const auto rank = [](const Part& part) {
      return part.merged < 0 ? std::numeric_limits<int32_t>::max() : part.merged;
    };
    const auto best = std::min_element(parts.begin(), parts.end(),
                                       [rank](const Part& a, const Part& b) { return rank(a) < rank(b); });
    if (best == parts.end() || best->merged < 0) break;
    const size_t i = best - parts.begin();
    parts[i].id = parts[i].merged;
    parts[i].end = parts[i + 1].end;
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    parts[i].merged = union_with_next(i);
    if (i > 0) parts[i - 1].merged = union_with_next(i - 1);
  }
  for (const Part& part : parts) ids.push_back(part.id);
}

std::string Tokenizer::serialize() const {
  size_t longest = 0;
  for (int32_t id = 0; id < vocabulary(); ++id) longest = std::max(longest, bytes_of(id).size());
  const uint32_t version = longest < 256 ? 2 : 3;
  const uint32_t words[4] = {kTokenizerMagic, version, static_cast<uint32_t>(vocabulary()),
                             static_cast<uint32_t>(end_of_text_)};
  std::string file(kTokenizerHeaderBytes, '\0');
  std::memcpy(file.data(), words, sizeof words);
  for (int32_t id = 0; id < vocabulary(); ++id) {
    const std::string_view bytes = bytes_of(id);
    file += static_cast<char>(bytes.size() & 0xFF);
    if (version == 3) file += static_cast<char>(bytes.size() >> 8);
    file += bytes;
  }
  return file;
}

Tokenizer byte_tokenizer() {
  std::string bytes;
  std::vector<int64_t> starts = {0};
  for (int byte = 0; byte < 256; ++byte) {
    bytes += static_cast<char>(byte);
    starts.push_back(byte + 1);
  }
  bytes += kEndOfTextName;
  starts.push_back(static_cast<int64_t>(bytes.size()));
  return {std::move(bytes), std::move(starts), 256, "the byte tokenizer"};
}

std::string tokenizer_path_beside(const std::string& shard_path) {
  return (std::filesystem::path(shard_path).parent_path() / "tokenizer.bin").string();
}

// GPT-2's rule, tried in this order:  's 't 're 've 'm 'll 'd  |  ?letters  |  ?digits  |  ?others  |
// spaces but the last one before a non-space  |  spaces.   " ?" is an optional single space before the run.
size_t gpt2_piece_length(std::string_view text) {
  for (const std::string_view suffix : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (text.starts_with(suffix)) return suffix.size();
  }
  const auto run_end = [text](size_t from, bool (*belongs)(unsigned char)) {
    while (from < text.size() && belongs(static_cast<unsigned char>(text[from]))) ++from;
    return from;
  };
  const size_t first = text[0] == ' ' ? 1 : 0;
  for (const auto belongs : {is_letter, is_digit, is_other}) {
    const size_t end = run_end(first, belongs);
    if (end > first) return end;
  }
  const size_t end = run_end(0, is_space);  // only white space is left to stand here, one or more
  return end < text.size() && end > 1 ? end - 1 : end;
}

}  // namespace dither
