// Laws of the loader: sample s is a function of seed and s alone, whoever asks, in whatever portions, prefetched or
// not.
#include "src/data/loader.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <thread>

#include "src/data/permutation.h"
#include "tests/catch.h"
#include "tests/data/files.h"

namespace dither {
using namespace test;

namespace {

constexpr int64_t kT = 5;

// Three shards of 4, 0 and 7 windows with tokens left over, of both widths: 23 + 3 + 37 tokens, ids all different.
struct Corpus {
  TemporaryFolder folder;
  Corpus() {
    write_file(folder / "a.bin", shard_bytes(counting<uint16_t>(100, 4 * kT + 3)));
    write_file(folder / "b.bin", shard_bytes(counting<uint16_t>(200, 3)));
    write_file(folder / "c.bin", shard_bytes(counting<uint32_t>(300, 7 * kT + 2)));
  }
  TokenShards shards() const { return TokenShards(folder / "*.bin"); }
};
constexpr int64_t kWindows = 11;

LoaderOptions options(int64_t micro_batch, uint64_t seed = 1337) {
  return {.seed = seed, .sequence_length = kT, .micro_batch_size = micro_batch, .vocabulary = 400};
}

/// The sample of the first epoch that is this window.
int64_t sample_of(int64_t window, int64_t windows) {
  for (int64_t sample = 0; sample < windows; ++sample) {
    if (permuted(sample, windows, 1337, 0) == window) return sample;
  }
  return -1;
}

using Rows = std::vector<std::vector<int32_t>>;  // a sample's T tokens, then its T targets

Rows samples(Loader& loader, int64_t first, int64_t count, int64_t micro_batch) {
  Rows rows;
  for (int64_t s = first; s < first + count; s += micro_batch) {
    const Batch& batch = loader.load(s);
    for (int64_t b = 0; b < micro_batch; ++b) {
      rows.emplace_back(batch.tokens.begin() + b * kT, batch.tokens.begin() + (b + 1) * kT);
      rows.back().insert(rows.back().end(), batch.targets.begin() + b * kT, batch.targets.begin() + (b + 1) * kT);
    }
  }
  return rows;
}

}  // namespace

// Catches: windows that overlap or leave gaps, that cross shards, a shard without a window that shifts its successors,
// targets not shifted, (n / T) windows where the last one lacks its target.
TEST_CASE("the samples of an epoch, put in order, are the windows of the files") {
  const Corpus corpus;
  const TokenShards shards = corpus.shards();
  Loader loader(shards, options(1));
  REQUIRE(loader.samples_per_epoch() == kWindows);
  Rows rows = samples(loader, 0, kWindows, 1);
  std::sort(rows.begin(), rows.end());  // ids rise from file to file
  for (int64_t w = 0; w < kWindows; ++w) {
    const int32_t first = w < 4 ? 100 + kT * w : 300 + kT * (w - 4);
    for (int64_t t = 0; t < kT; ++t) {
      REQUIRE(rows[w][t] == first + t);
      REQUIRE(rows[w][kT + t] == first + t + 1);
    }
  }
}

// Catches: a corpus of exactly T + 1 tokens refused, one of T accepted.
TEST_CASE("one window needs T + 1 tokens") {
  const TemporaryFolder folder;
  write_file(folder / "x.bin", shard_bytes(counting<uint16_t>(0, kT + 1)));
  const TokenShards enough(folder / "x.bin");
  REQUIRE(Loader(enough, options(1)).samples_per_epoch() == 1);
  write_file(folder / "y.bin", shard_bytes(counting<uint16_t>(0, kT)));
  write_file(folder / "z.bin", shard_bytes(counting<uint16_t>(0, 0)));
  const TokenShards few(folder / "[yz].bin");
  REQUIRE(error_of([&] { Loader loader(few, options(1)); }) ==
          folder / "[yz].bin" +
              ": shorter than one sequence: the longest of 2 shards has 5 tokens, but a sample needs 6 "
              "(model.sequence_length 5 and the target of its last token); prepare more text or lower "
              "model.sequence_length");
}

// Catches: an epoch that repeats or misses a window, one order for all epochs, a seed that is not used.
TEST_CASE("each epoch visits every window once, in an order of its seed and number") {
  const Corpus corpus;
  const TokenShards shards = corpus.shards();
  Loader loader(shards, options(1)), other_seed(shards, options(1, 7));
  const Rows first = samples(loader, 0, kWindows, 1), second = samples(loader, kWindows, kWindows, 1);
  Rows windows = first;
  std::sort(windows.begin(), windows.end());
  for (Rows epoch : {second, samples(other_seed, 0, kWindows, 1)}) {
    std::sort(epoch.begin(), epoch.end());
    REQUIRE(epoch == windows);
  }
  REQUIRE(first != windows);
  REQUIRE(first != second);
  REQUIRE(first != samples(other_seed, 0, kWindows, 1));
}

// Catches: a position kept inside the loader, batches that start anew at an epoch's end, a row stride of T + 1.
TEST_CASE("what a sample is depends on no micro-batch size, start or history") {
  const Corpus corpus;
  const TokenShards shards = corpus.shards();
  Loader by_eight(shards, options(8)), by_four(shards, options(4)), by_one(shards, options(1));
  const Rows rows = samples(by_eight, 0, 40, 8);  // three epoch ends, none at a batch's end
  REQUIRE(samples(by_four, 0, 40, 4) == rows);
  REQUIRE(samples(by_one, 0, 40, 1) == rows);
  const Rows tail(rows.begin() + 9, rows.begin() + 9 + 16);
  REQUIRE(samples(by_eight, 9, 16, 8) == tail);  // back, to an odd start
  Loader fresh(shards, options(8));
  REQUIRE(samples(fresh, 9, 16, 8) == tail);
}

// Catches: a batch overwritten while the caller holds it, a hint taken for another sample, a stale batch handed out.
TEST_CASE("prefetched batches equal those read directly") {
  const Corpus corpus;
  const TokenShards shards = corpus.shards();
  Loader direct(shards, options(3)), ahead(shards, options(3));
  for (int64_t s = 0; s < 300; s += 3) {
    const Batch& batch = ahead.load(s);
    ahead.prefetch(s + 3);
    if (s % 7 == 0) ahead.prefetch(s + 3);    // the same hint again
    if (s % 11 == 0) ahead.prefetch(s + 30);  // a wrong hint, which replaces the right one
    const Batch& wanted = direct.load(s);
    REQUIRE(batch.tokens == wanted.tokens);
    REQUIRE(batch.targets == wanted.targets);
    REQUIRE(batch.counted_targets == 3 * kT);
  }
  ahead.prefetch(0);  // still in flight when the loader goes
}

// Catches: a hint that overtakes the one being fetched, so that the worker's batch passes for another. Windows of a
// million tokens keep the worker busy for about a millisecond; the second hint comes at a different moment of it each
// time.
TEST_CASE("a hint given while another is being fetched waits its turn") {
  const TemporaryFolder folder;
  constexpr int64_t kLong = 1'000'000;
  write_file(folder / "long.bin", shard_bytes(counting<uint32_t>(0, 3 * kLong + 1)));
  const TokenShards shards(folder / "long.bin");
  Loader loader(shards, {.sequence_length = kLong, .micro_batch_size = 1, .vocabulary = 4'000'000});
  for (int round = 0; round < 20; ++round) {
    loader.prefetch(round % 3);
    std::this_thread::sleep_for(std::chrono::microseconds(50 * round));
    loader.prefetch((round + 1) % 3);
    const Batch& batch = loader.load((round + 1) % 3);
    REQUIRE(batch.tokens[0] == permuted((round + 1) % 3, 3, 0, 0) * kLong);
    REQUIRE(batch.targets[kLong - 1] == batch.tokens[0] + kLong);
  }
}

// Catches: vectors made anew for each batch. Two buffers trade places and no third appears.
TEST_CASE("batches live in two buffers for ever") {
  const Corpus corpus;
  const TokenShards shards = corpus.shards();
  Loader loader(shards, options(3));
  std::set<const int32_t*> places;
  for (int64_t s = 0; s < 60; s += 3) {
    const Batch& batch = loader.load(s);
    places.insert(batch.tokens.data());
    places.insert(batch.targets.data());
    if (s % 4 != 0) loader.prefetch(s + 3);
  }
  REQUIRE(places.size() == 4);  // tokens and targets, twice
}

// Catches: an error that ends the process in the thread, is lost, sticks to later batches, or hits the wrong load().
TEST_CASE("an error met while prefetching comes out of the load that asks for it") {
  const TemporaryFolder folder;
  std::vector<uint16_t> tokens = counting<uint16_t>(0, 4 * kT + 1);
  tokens[2 * kT] = 500;  // target of window 1, input of window 2
  write_file(folder / "bad.bin", shard_bytes(tokens));
  const TokenShards shards(folder / "bad.bin");
  Loader loader(shards, options(1));
  const auto sample = [](int64_t window) { return sample_of(window, 4); };
  loader.load(sample(0));
  for (int round = 0; round < 3; ++round) {
    for (const int64_t window : {1, 2}) {
      loader.prefetch(sample(window));
      REQUIRE(loader.load(sample(0)).tokens[0] == 0);  // another batch is not concerned
      REQUIRE(has(error_of([&] { loader.load(sample(window)); }), "bad.bin: token 500 at position 10 "));
    }
    loader.prefetch(sample(2));
    loader.prefetch(sample(3));  // the failed batch that nobody asked for is forgotten
    REQUIRE(loader.load(sample(3)).tokens[0] == 3 * kT);
  }
}

// Catches: masked inputs, a count that includes masked targets, a count of the window's first token instead of its
// last.
TEST_CASE("targets equal to ignore_token are masked and not counted") {
  const TemporaryFolder folder;
  const bool wide = GENERATE(false, true);
  const std::vector<uint16_t> tokens = {9, 1, 2, 9, 4, 9, 9, 7, 8, 9, 10};  // two windows of 5, T + 1 shared at 5
  if (wide) {
    write_file(folder / "x.bin", shard_bytes(std::vector<uint32_t>(tokens.begin(), tokens.end())));
  } else {
    write_file(folder / "x.bin", shard_bytes(tokens));
  }
  const TokenShards shards(folder / "x.bin");
  LoaderOptions masked = options(1);
  masked.ignore_token = 9;
  Loader loader(shards, masked), unmasked(shards, options(2));

  const Batch& first = loader.load(sample_of(0, 2));
  REQUIRE(first.tokens == std::vector<int32_t>{9, 1, 2, 9, 4});
  REQUIRE(first.targets == std::vector<int32_t>{1, 2, -1, 4, -1});
  REQUIRE(first.counted_targets == 3);
  const Batch& second = loader.load(sample_of(1, 2));
  REQUIRE(second.tokens == std::vector<int32_t>{9, 9, 7, 8, 9});
  REQUIRE(second.targets == std::vector<int32_t>{-1, 7, 8, -1, 10});
  REQUIRE(second.counted_targets == 3);
  REQUIRE(loader.count_targets(0, 2) == 6);
  REQUIRE(loader.count_targets(1, 1) == 3);
  REQUIRE(loader.count_targets(1, 4) == 12);
  REQUIRE(unmasked.load(0).counted_targets == 10);
  REQUIRE(unmasked.count_targets(0, 2) == 10);
}

// Catches: count_targets() in another order than load(): the loss would be divided by a wrong number.
TEST_CASE("count_targets is the sum over the batches that load gives") {
  const TemporaryFolder folder;
  std::vector<uint16_t> tokens;
  for (int i = 0; i < 400; ++i) tokens.push_back(static_cast<uint16_t>(i * i % 7));
  write_file(folder / "x.bin", shard_bytes(tokens));
  const TokenShards shards(folder / "x.bin");
  LoaderOptions masked = options(4);
  masked.ignore_token = 2;
  Loader loader(shards, masked);
  int64_t sum = 0;
  for (int64_t s = 3; s < 3 + 200; s += 4) sum += loader.load(s).counted_targets;
  REQUIRE(loader.count_targets(3, 200) == sum);
  REQUIRE(sum < 200 * kT);
}

}  // namespace dither
