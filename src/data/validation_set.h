// What a validation judges: a property of the shards alone, so that no micro-batch size, number of ranks or sequence
// length (up to kSegmentTargets) changes which targets are judged. docs/data-format.md is its specification.
//
// Every token of a shard but its first is a target. A shard's targets are cut into segments of S = max(8192, T), its
// last one shorter. Of all segments of all shards in order, some are chosen, evenly spaced, until N targets are. A
// chosen segment is cut into windows of T inputs, the last one shorter; positions begin anew at each window.
#pragma once

#include <algorithm>  // max
#include <cstdint>
#include <string>
#include <vector>

#include "src/data/loader.h"  // Batch
#include "src/data/token_shards.h"

namespace dither {

constexpr int64_t kSegmentTargets = 8192;

/// Consecutive targets of one shard: its tokens [first, first + targets), first >= 1.
struct ValidationSegment {
  int64_t shard = 0, first = 0, targets = 0;
};

/// The segments, of at most `length` targets, that make up `wanted` targets of shards with so many tokens each, or all
/// where that is 0 or more than there are. Let A be all targets: the segment of s targets that c targets precede is
/// chosen if (targets chosen before it) * A < (c + s) * wanted. The last one chosen is cut so that exactly
/// min(wanted, A) are.
std::vector<ValidationSegment> choose_segments(const std::vector<int64_t>& tokens, int64_t length, int64_t wanted);

class ValidationSet {
 public:
  struct Options {
    int64_t wanted = 0;           // targets; 0: all
    int64_t sequence_length = 0;  // T
    int64_t vocabulary = 0;       // token ids must lie below it
    int32_t ignore_token = -1;    // targets equal to it are not counted; -1: all are
  };

  /// `shards` must outlive the set. Throws Error if no shard has a target.
  ValidationSet(const TokenShards& shards, const Options& options);

  const std::vector<ValidationSegment>& segments() const { return segments_; }
  int64_t segment_length() const { return std::max(kSegmentTargets, options_.sequence_length); }  // S
  int64_t targets() const { return targets_; }          // chosen, those of ignore_token among them
  int64_t all_targets() const { return all_targets_; }  // of the shards
  bool is_whole() const { return targets_ == all_targets_; }
  int64_t windows() const { return first_window_.back(); }

  /// Windows [first, first + count) as the rows [count, T] of a batch. A row that is shorter than T ends with tokens 0
  /// and targets kIgnoredTarget: attention is causal, so they change nothing before them. Throws Error for a token
  /// outside the vocabulary.
  void read(int64_t first, int64_t count, Batch& batch) const;

  /// XXH3 of the ids of all chosen stretches, each with the token before it, and of ignore_token: sets with the same
  /// fingerprint judge the same targets after the same tokens. Throws Error for a token outside the vocabulary.
  std::string fingerprint() const;

 private:
  const TokenShards& shards_;
  const Options options_;
  std::vector<ValidationSegment> segments_;
  std::vector<int64_t> first_window_;  // [segments + 1] the last entry is the total
  int64_t targets_ = 0, all_targets_ = 0;
};

}  // namespace dither
