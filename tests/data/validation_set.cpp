// Laws of validation: what is judged is a property of the shards, and all of it is judged once.
#include "src/data/validation_set.h"

#include <algorithm>
#include <set>

#include "tests/catch.h"
#include "tests/data/files.h"

namespace dither {
using namespace test;

namespace {

using Tokens = std::vector<int64_t>;
constexpr int64_t kS = kSegmentTargets;

/// Numbers of the segments that are chosen of shards of whole segments.
std::vector<int64_t> numbers_of(int64_t segments, int64_t wanted) {
  std::vector<int64_t> numbers;
  for (const ValidationSegment& s : choose_segments({segments * kS + 1}, kS, wanted)) {
    REQUIRE((s.first - 1) % kS == 0);
    numbers.push_back((s.first - 1) / kS);
  }
  return numbers;
}

/// Shards of 3 and 1 segments and a part, one without a target and a tiny one; ids all different.
struct Corpus {
  TemporaryFolder folder;
  Corpus() {
    write_file(folder / "a.bin", shard_bytes(counting<uint32_t>(0, 3 * kS + 701)));
    write_file(folder / "b.bin", shard_bytes(counting<uint32_t>(40000, 1)));
    write_file(folder / "c.bin", shard_bytes(counting<uint32_t>(41000, 8)));
    write_file(folder / "d.bin", shard_bytes(counting<uint32_t>(50000, kS + 41)));
  }
  TokenShards shards() const { return TokenShards(folder / "*.bin"); }
};

ValidationSet::Options options(int64_t wanted, int64_t T, int32_t ignore = -1) {
  return {.wanted = wanted, .sequence_length = T, .vocabulary = 60000, .ignore_token = ignore};
}

/// The targets that count, read `rows` windows at once; each after its input.
std::vector<int32_t> judged(const ValidationSet& set, int64_t T, int64_t rows) {
  std::vector<int32_t> targets;
  Batch batch;
  for (int64_t first = 0; first < set.windows(); first += rows) {
    const int64_t count = std::min(rows, set.windows() - first);
    set.read(first, count, batch);
    REQUIRE(static_cast<int64_t>(batch.tokens.size()) == count * T);
    const size_t before = targets.size();
    for (size_t i = 0; i < batch.targets.size(); ++i) {
      if (batch.targets[i] == kIgnoredTarget) continue;
      REQUIRE(batch.tokens[i] + 1 == batch.targets[i]);
      targets.push_back(batch.targets[i]);
    }
    REQUIRE(static_cast<int64_t>(targets.size() - before) == batch.counted_targets);
  }
  return targets;
}

}  // namespace

// Catches: the first N segments, a step that is rounded down, an end that is never reached.
TEST_CASE("the chosen segments are spaced evenly over the set") {
  REQUIRE(numbers_of(10, 0) == std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  REQUIRE(numbers_of(10, 1000 * kS) == numbers_of(10, 0));
  REQUIRE(numbers_of(10, 5 * kS) == std::vector<int64_t>{0, 2, 4, 6, 8});
  REQUIRE(numbers_of(10, 4 * kS) == std::vector<int64_t>{0, 2, 5, 7});
  REQUIRE(numbers_of(10, 1) == std::vector<int64_t>{0});
  REQUIRE(numbers_of(10, kS + 1) == std::vector<int64_t>{0, 9});
}

// Catches: a whole segment too much where N is no multiple of S, short segments counted as whole ones, a target that is
// a shard's first token, a segment across shards, one chosen twice, products beyond 64 bits.
TEST_CASE("exactly as many targets are chosen as were asked for, whatever the shards' lengths") {
  const Tokens tokens = GENERATE(Tokens{kS + 1}, Tokens{5, 1, 0, 7000, 3 * kS, kS + 1, kS + 2, 2}, Tokens(300, 1000),
                                 Tokens{int64_t{1} << 45}, Tokens{2, 2, 2, 500 * kS, 2, 2});
  int64_t all = 0;
  for (const int64_t n : tokens) all += std::max<int64_t>(0, n - 1);
  for (const int64_t wanted : {int64_t{1}, int64_t{2}, kS - 1, kS, kS + 1, int64_t{131072}, all - 1, all, all + 1}) {
    if (std::min(wanted, all) > 1000 * kS) continue;
    INFO(tokens.size() << " shards, wanted " << wanted << " of " << all);
    int64_t chosen = 0;
    ValidationSegment last = {.shard = -1};
    for (const ValidationSegment& s : choose_segments(tokens, kS, wanted)) {
      chosen += s.targets;
      REQUIRE((s.targets >= 1 && s.targets <= kS && s.first >= 1));
      REQUIRE(s.first + s.targets <= tokens[static_cast<size_t>(s.shard)]);
      REQUIRE((s.shard > last.shard || s.first >= last.first + last.targets));
      last = s;
    }
    REQUIRE(chosen == std::min(wanted, all));
  }
}

// Catches: targets that depend on T or on the rows read at once, a partial window that is dropped, padding that counts,
// a window that runs into the next segment, the target behind a window's last input lost.
TEST_CASE("the same targets are judged for every sequence length and number of rows") {
  const Corpus corpus;
  const TokenShards shards = corpus.shards();
  const int64_t wanted = GENERATE(0, 1, 10000, 2 * kSegmentTargets);
  const ValidationSet first(shards, options(wanted, 64));
  const std::vector<int32_t> targets = judged(first, 64, 1);
  REQUIRE(first.all_targets() == 4 * kS + 700 + 7 + 40);
  REQUIRE(static_cast<int64_t>(targets.size()) == (wanted == 0 ? first.all_targets() : wanted));
  REQUIRE(std::set<int32_t>(targets.begin(), targets.end()).size() == targets.size());
  for (const int64_t T : {64, 128, 5000, 8192}) {
    const ValidationSet set(shards, options(wanted, T));
    for (const int64_t rows : {1, 3, 8}) REQUIRE(judged(set, T, rows) == targets);
    REQUIRE(set.fingerprint() == first.fingerprint());
    REQUIRE(set.segment_length() == kS);
  }
  const ValidationSet longer(shards, options(wanted, 10000));
  REQUIRE(longer.segment_length() == 10000);
  REQUIRE(longer.targets() == first.targets());
  REQUIRE((longer.fingerprint() == first.fingerprint()) == (wanted <= 1));  // the whole set, or its first target
}

// Catches: a fingerprint of positions alone, of ids alone, without what is left out.
TEST_CASE("a fingerprint belongs to the targets that are judged and to what precedes them") {
  const Corpus corpus;
  const TokenShards shards = corpus.shards();
  std::set<std::string> known = {ValidationSet(shards, options(0, 64)).fingerprint()};
  known.insert(ValidationSet(shards, options(0, 64, 41003)).fingerprint());
  known.insert(ValidationSet(shards, options(5000, 64)).fingerprint());
  write_file(corpus.folder / "d.bin", shard_bytes(counting<uint32_t>(50001, kS + 41)));
  const TokenShards others(corpus.folder / "*.bin");
  known.insert(ValidationSet(others, options(0, 64)).fingerprint());
  REQUIRE(known.size() == 4);
}

// Catches: an ignored target that counts, an ignored input.
TEST_CASE("ignored targets are chosen but not counted") {
  const Corpus corpus;
  const TokenShards shards = corpus.shards();
  std::vector<int32_t> all = judged(ValidationSet(shards, options(0, 64)), 64, 4);
  std::erase(all, 41003);
  REQUIRE(judged(ValidationSet(shards, options(0, 64, 41003)), 64, 4) == all);
}

TEST_CASE("shards without any target are refused") {
  const TemporaryFolder folder;
  write_file(folder / "x.bin", shard_bytes(counting<uint16_t>(0, 1)));
  const TokenShards shards(folder / "x.bin");
  REQUIRE(error_of([&] { ValidationSet set(shards, options(0, 64)); }) ==
          folder / "x.bin" + ": nothing to judge: a target needs a token before it, and none of 1 shard has two");
}

}  // namespace dither
