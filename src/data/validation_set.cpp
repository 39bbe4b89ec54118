#include "src/data/validation_set.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/checksum.h"
#include "base/counted.h"
#include "base/error.h"

namespace dither {

namespace {

constexpr int64_t kFirstTarget = 1;  // nothing precedes a shard's first token

int64_t targets_of(int64_t tokens) { return std::max<int64_t>(0, tokens - kFirstTarget); }

int64_t targets_of(const std::vector<int64_t>& tokens) {
  int64_t all = 0;
  for (const int64_t of_shard : tokens) all += targets_of(of_shard);
  return all;
}

std::vector<int64_t> tokens_of(const TokenShards& shards) {
  std::vector<int64_t> tokens;
  for (int64_t shard = 0; shard < shards.shards(); ++shard) tokens.push_back(shards.tokens(shard));
  return tokens;
}

}  // namespace

std::vector<ValidationSegment> choose_segments(const std::vector<int64_t>& tokens, int64_t length, int64_t wanted) {
  DITHER_ASSERT(length > 0 && wanted >= 0);
  const int64_t all = targets_of(tokens);
  if (wanted == 0 || wanted > all) wanted = all;
  std::vector<ValidationSegment> chosen;
  int64_t before = 0, taken = 0;  // targets of the shards before this one, and those of all that are chosen
  for (size_t shard = 0; shard < tokens.size(); ++shard) {
    const int64_t here = targets_of(tokens[shard]);
    for (int64_t begin = 0; begin < here && taken < wanted; begin += length) {
      // The next one chosen is the first that ends after this target. 128 bits: a trillion tokens times a billion.
      const int64_t due = static_cast<int64_t>(static_cast<__int128>(taken) * all / wanted) - before;
      if (due >= here) break;
      begin = std::max(begin, due / length * length);
      chosen.push_back(
          {static_cast<int64_t>(shard), kFirstTarget + begin, std::min({length, here - begin, wanted - taken})});
      taken += chosen.back().targets;
    }
    before += here;
  }
  DITHER_ASSERT(taken == wanted);
  return chosen;
}

ValidationSet::ValidationSet(const TokenShards& shards, const Options& options)
    : shards_(shards),
      options_(options),
      segments_(choose_segments(tokens_of(shards), segment_length(), options.wanted)),
      all_targets_(targets_of(tokens_of(shards))) {
  if (segments_.empty()) {
    throw Error(fmt::format("{}: nothing to judge: a target needs a token before it, and none of {} has two",
                            shards.pattern(), counted(shards.shards(), "shard")));
  }
  const int64_t T = options.sequence_length;
  first_window_.push_back(0);
  for (const ValidationSegment& segment : segments_) {
    targets_ += segment.targets;
    first_window_.push_back(first_window_.back() + (segment.targets + T - 1) / T);
  }
}

void ValidationSet::read(int64_t first, int64_t count, Batch& batch) const {
  DITHER_ASSERT(first >= 0 && count > 0 && first + count <= windows());
  const int64_t T = options_.sequence_length;
  batch.tokens.assign(static_cast<size_t>(count * T), 0);
  batch.targets.assign(static_cast<size_t>(count * T), kIgnoredTarget);
  batch.counted_targets = 0;
  auto after = std::upper_bound(first_window_.begin(), first_window_.end(), first);
  for (int64_t row = 0; row < count; ++row) {
    if (first + row == *after) ++after;
    const int64_t index = after - first_window_.begin() - 1;
    const ValidationSegment& segment = segments_[static_cast<size_t>(index)];
    const int64_t begin = (first + row - first_window_[static_cast<size_t>(index)]) * T;
    const int64_t length = std::min(T, segment.targets - begin);
    int32_t* targets = batch.targets.data() + row * T;
    shards_.read(segment.shard, segment.first + begin - 1, length, options_.vocabulary, batch.tokens.data() + row * T);
    shards_.read(segment.shard, segment.first + begin, length, options_.vocabulary, targets);
    batch.counted_targets += length;
    if (options_.ignore_token < 0) continue;
    batch.counted_targets -= std::count(targets, targets + length, options_.ignore_token);
    std::replace(targets, targets + length, options_.ignore_token, kIgnoredTarget);
  }
}

std::string ValidationSet::fingerprint() const {
  constexpr int32_t kGap = -1;  // no id: before segments that do not continue the one before them
  Checksum checksum;
  std::vector<int32_t> ids;
  ValidationSegment last = {.shard = -1};
  for (const ValidationSegment& segment : segments_) {
    const bool continues = segment.shard == last.shard && segment.first == last.first + last.targets;
    if (!continues) checksum.add(&kGap, sizeof(kGap));
    const int64_t tokens = segment.targets + (continues ? 0 : 1);  // the first one is an input alone
    ids.resize(static_cast<size_t>(tokens));
    shards_.read(segment.shard, segment.first + segment.targets - tokens, tokens, options_.vocabulary, ids.data());
    checksum.add(ids.data(), ids.size() * sizeof(int32_t));
    last = segment;
  }
  checksum.add(&options_.ignore_token, sizeof(options_.ignore_token));
  return checksum_text(checksum.value());
}

}  // namespace dither
