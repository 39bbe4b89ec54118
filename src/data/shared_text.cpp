#include "src/data/shared_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <unordered_map>
#include <vector>

#include "base/counted.h"

namespace dither {

namespace {

constexpr int64_t kPiece = 128;  // tokens: a long sentence of bytes, a paragraph of words; hardly repeated by chance
constexpr int64_t kBlock = 1 << 16;
constexpr int64_t kValidationBlocks = (1 << 25) / kBlock, kTrainBlocks = (1 << 26) / kBlock;
constexpr std::chrono::seconds kLongest{5};  // for disks that are far away
constexpr size_t kLeastDifferent = 12;       // tokens in a piece: padding and rules of dashes are in every text

/// Calls look(tokens) for at most `most` blocks that lie evenly over the corpus; the part of its tokens that was read.
template <class Look>
double look_at_blocks(const TokenShards& shards, int64_t most, const Look& look) {
  std::vector<int64_t> first_block = {0};  // of each shard; the last entry is the total
  for (int64_t shard = 0; shard < shards.shards(); ++shard) {
    first_block.push_back(first_block.back() + (shards.tokens(shard) + kBlock - 1) / kBlock);
  }
  const int64_t all = first_block.back(), wanted = std::min(all, most);
  // In strides, so that what was read is spread evenly over the corpus at any time; a prime, so that all are visited.
  constexpr int64_t kStride = 786433;
  const auto begin = std::chrono::steady_clock::now();
  std::vector<int32_t> tokens;
  int64_t read = 0;
  for (int64_t i = 0; i < wanted; ++i) {
    const int64_t block = i * kStride % wanted * all / wanted;
    const int64_t shard = std::upper_bound(first_block.begin(), first_block.end(), block) - first_block.begin() - 1;
    const int64_t first = (block - first_block[shard]) * kBlock;
    tokens.resize(static_cast<size_t>(std::min(kBlock, shards.tokens(shard) - first)));
    shards.read(shard, first, static_cast<int64_t>(tokens.size()), std::numeric_limits<int32_t>::max(), tokens.data());
    look(tokens);
    read += static_cast<int64_t>(tokens.size());
    if (std::chrono::steady_clock::now() - begin > kLongest) break;
  }
  return shards.tokens() == 0 ? 1 : static_cast<double>(read) / static_cast<double>(shards.tokens());
}

constexpr uint64_t kBase = 0x9E3779B97F4A7C15u;  // odd, and far from any token

constexpr uint64_t power(uint64_t base, int64_t exponent) {
  uint64_t result = 1;
  for (int64_t i = 0; i < exponent; ++i) result *= base;
  return result;
}

/// A hash of the last kPiece tokens that were added: the sum of (token + 1) * kBase^age, mod 2^64.
class RollingHash {
 public:
  void add(int32_t token) { value_ = value_ * kBase + static_cast<uint64_t>(token) + 1; }
  void drop(int32_t token) {  // the oldest, before the next add()
    constexpr uint64_t kOldest = power(kBase, kPiece - 1);
    value_ -= (static_cast<uint64_t>(token) + 1) * kOldest;
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0;
};

/// Whether a piece has kLeastDifferent different tokens.
template <class Iterator>
bool is_text(Iterator begin, Iterator end) {
  std::array<int32_t, kLeastDifferent> different;
  size_t count = 0;
  for (; begin != end && count < kLeastDifferent; ++begin) {
    const auto known = different.begin() + static_cast<std::ptrdiff_t>(count);
    if (std::find(different.begin(), known, *begin) == known) different[count++] = *begin;
  }
  return count == kLeastDifferent;
}

/// The pieces of validation, and which of them were found.
class Pieces {
 public:
  Pieces() : filter_(kFilterBits / 64) {}

  void add(const std::vector<int32_t>& tokens) {
    for (size_t first = 0; first + kPiece <= tokens.size(); first += kPiece) {
      const auto begin = tokens.begin() + static_cast<std::ptrdiff_t>(first);
      if (!is_text(begin, begin + kPiece)) continue;
      RollingHash hash;
      std::for_each(begin, begin + kPiece, [&hash](int32_t token) { hash.add(token); });
      found_.emplace(hash.value(), false);
      filter_[slot(hash.value()) / 64] |= uint64_t{1} << slot(hash.value()) % 64;
    }
  }

  void search(const std::vector<int32_t>& tokens) {
    RollingHash hash;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i >= kPiece) hash.drop(tokens[i - kPiece]);
      hash.add(tokens[i]);
      if (i + 1 < kPiece || (filter_[slot(hash.value()) / 64] >> slot(hash.value()) % 64 & 1) == 0) continue;
      const auto piece = found_.find(hash.value());
      if (piece != found_.end()) piece->second = true;
    }
  }

  int64_t count() const { return static_cast<int64_t>(found_.size()); }
  int64_t found() const {
    return std::count_if(found_.begin(), found_.end(), [](const auto& piece) { return piece.second; });
  }

 private:
  static constexpr uint64_t kFilterBits = 1 << 22;  // 512 KiB: in the second cache
  static uint64_t slot(uint64_t hash) { return (hash ^ hash >> 32) % kFilterBits; }

  std::vector<uint64_t> filter_;  // a bit for each slot that a piece has: most positions end here
  std::unordered_map<uint64_t, bool> found_;
};

/// Pairs of the same content: "a and b".
std::vector<std::string> same_files(const TokenShards& train, const TokenShards& validation) {
  std::unordered_map<int64_t, std::vector<int64_t>> by_size;
  for (int64_t shard = 0; shard < train.shards(); ++shard) by_size[train.tokens(shard)].push_back(shard);
  std::vector<std::string> pairs;
  for (int64_t shard = 0; shard < validation.shards(); ++shard) {
    const auto alike = by_size.find(validation.tokens(shard));
    if (alike == by_size.end() || alike->first == 0) continue;
    const std::string digest = validation.digest(shard);
    const auto same = std::find_if(alike->second.begin(), alike->second.end(),
                                   [&](int64_t other) { return train.digest(other) == digest; });
    if (same != alike->second.end()) pairs.push_back(validation.path(shard) + " and " + train.path(*same));
  }
  return pairs;
}

constexpr const char* kEffect =
    ": the loss on text that was trained on says nothing about other text\n       cure: validation shards of text that "
    "training does not have";

}  // namespace

SharedText shared_text(const TokenShards& train, const TokenShards& validation) {
  Pieces pieces;
  look_at_blocks(validation, kValidationBlocks, [&](const auto& tokens) { pieces.add(tokens); });
  SharedText result;
  result.pieces = pieces.count();
  if (result.pieces == 0) return result;
  result.searched = look_at_blocks(train, kTrainBlocks, [&](const auto& tokens) { pieces.search(tokens); });
  result.found = pieces.found();
  return result;
}

std::string shared_text_warning(const TokenShards& train, const TokenShards& validation) {
  const std::vector<std::string> files = same_files(train, validation);
  if (!files.empty()) {
    return fmt::format("training and validation have the same text: {} have the same content{}{}", files.front(),
                       files.size() > 1 ? fmt::format(", and so have {} more", counted(files.size() - 1, "pair")) : "",
                       kEffect);
  }
  // Licences, headers and verses are repeated in every corpus. Of a part of the training text alone a few of them say
  // little, since they may be the ones that are repeated most.
  constexpr double kUsual = 0.01;
  constexpr int64_t kFew = 2, kFewOfPart = 16;
  const SharedText shared = shared_text(train, validation);
  const bool whole = shared.searched >= 1;
  const double share = static_cast<double>(shared.found) / (static_cast<double>(shared.pieces) * shared.searched);
  if (shared.found < (whole ? kFew : kFewOfPart) || share < kUsual) return "";
  return fmt::format(
      "training and validation have the same text: {} of {} of {} tokens of {} are in {} too{}{}",
      with_commas(shared.found), counted(shared.pieces, "piece"), kPiece, validation.pattern(), train.pattern(),
      whole ? "" : fmt::format(" (in {:.2f} % of it, the part that was searched)", 100 * shared.searched), kEffect);
}

}  // namespace dither
