// Philox4x32-10 against its published vectors, and the layout of a counter: every field has bits of its own.
#include "kernels/numerics/philox.h"

#include <array>
#include <set>
#include <vector>

#include "tests/catch.h"
#include "tests/numerics/reference.h"

using namespace dither;
using namespace dither::reference;

namespace {

using Words = std::array<uint32_t, 4>;

Words words_of(const PhiloxWords& p) { return {p.w[0], p.w[1], p.w[2], p.w[3]}; }

const NoiseId kId = {.seed = 0x0123456789ABCDEFull,
                     .tensor = 0xABCDEF,
                     .step = 0x13579BDFu,
                     .stream = RandomStream::gradient_accumulation,
                     .draw = 0x2468AC};

}  // namespace

// Catches: swapped multipliers, swapped words, nine or eleven rounds, a key bumped before the first round, swapped
// halves of the key. Vectors: Random123, tests/kat_vectors, "philox4x32 10" (zeros, ones, digits of pi).
TEST_CASE("Philox4x32-10 meets the published known answers") {
  const uint32_t ones = 0xFFFFFFFFu;
  CHECK(words_of(philox4x32_10({{0, 0, 0, 0}}, 0)) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(words_of(philox4x32_10({{ones, ones, ones, ones}}, ~uint64_t{0})) ==
        Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(words_of(philox4x32_10({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0x299f31d0a4093822ull)) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

// Catches: any field moved, swapped or cut: the layout is a promise to checkpoints (rng_layout 1).
TEST_CASE("a counter is block, tensor and block, step, stream and draw, in this order of bits") {
  const int64_t block = 0x7E'9ABC'DEF1ll;
  REQUIRE(words_of(random_block(kId, block)) ==
          words_of(philox4x32_10({{0x9ABCDEF1u, 0xABCDEF7Eu, 0x13579BDFu, 0x032468ACu}}, kId.seed)));
}

// Catches: a stream renumbered by an insertion in the middle of the list.
TEST_CASE("the numbers of the random streams never change") {
  CHECK(static_cast<uint32_t>(RandomStream::weight) == 0);
  CHECK(static_cast<uint32_t>(RandomStream::first_moment) == 1);
  CHECK(static_cast<uint32_t>(RandomStream::second_moment) == 2);
  CHECK(static_cast<uint32_t>(RandomStream::gradient_accumulation) == 3);
  CHECK(static_cast<uint32_t>(RandomStream::initialisation) == 4);
  CHECK(static_cast<uint32_t>(RandomStream::weight_noise) == 5);
  CHECK(static_cast<uint32_t>(RandomStream::activation_quantisation) == 6);
  CHECK(static_cast<uint32_t>(RandomStream::output_gradient_quantisation) == 7);
  CHECK(static_cast<uint32_t>(RandomStream::data_shuffle) == 8);
  CHECK(static_cast<uint32_t>(RandomStream::sampling) == 9);
  CHECK(static_cast<uint32_t>(RandomStream::gradient_wire) == 10);
}

// Catches: a field that is ignored, two fields that share bits (block 2^32 with tensor + 1, draw with stream), a block
// cut to 32 bits. Under one key Philox is a permutation, so two counters give the same words only if they are equal.
TEST_CASE("block, tensor, step, stream and draw never alias, at both ends of their ranges") {
  std::set<Words> seen;
  size_t drawn = 0;
  for (int64_t block : {0ll, 1ll, 255ll, 0xFFFFFFFFll, 1ll << 32, (1ll << 32) + 1, 1ll << 39, (1ll << 40) - 1}) {
    for (uint32_t tensor : {0u, 1u, 255u, 256u, 0x10000u, 0xFFFFFFu}) {
      for (uint32_t step : {0u, 1u, 0xFFFFFFFFu}) {
        for (uint32_t stream = 0; stream <= 10; ++stream) {
          for (uint32_t draw : {0u, 1u, 0x10000u, 0xFFFFFFu}) {
            seen.insert(words_of(random_block({7, tensor, step, static_cast<RandomStream>(stream), draw}, block)));
            ++drawn;
          }
        }
      }
    }
  }
  REQUIRE(seen.size() == drawn);
}

// Catches: a seed of which one half is ignored.
TEST_CASE("every bit of the seed changes the words") {
  std::set<Words> seen = {words_of(random_block(kId, 5))};
  for (int bit = 0; bit < 64; ++bit) {
    NoiseId id = kId;
    id.seed ^= uint64_t{1} << bit;
    seen.insert(words_of(random_block(id, 5)));
  }
  REQUIRE(seen.size() == 65);
}

// Catches: an element that gets its neighbour's dither, halves in the wrong order, a block index formed in 32 bits.
TEST_CASE("the eight dithers of a block are its 16-bit halves, lower half first") {
  for (int64_t block : {0ll, 3ll, (1ll << 32) + 3, (1ll << 40) - 1}) {
    const PhiloxWords words = random_block(kId, block);
    for (int i = 0; i < 8; ++i) {
      const auto half = static_cast<uint16_t>(i % 2 == 0 ? words.w[i / 2] & 0xFFFFu : words.w[i / 2] >> 16);
      CHECK(dither_of(words, i) == half);
      CHECK(dither_at(kId, 8 * block + i) == half);
    }
    for (int i = 0; i < 4; ++i) CHECK(random_word(kId, 4 * block + i) == words.w[i]);
  }
}

// Catches: words used twice within a block, a constant half, a bit stuck in the dithers or words of a run. A bit's
// count over n draws is binomial: 5 sd are 2.5 sqrt(n).
TEST_CASE("each bit of the dithers is set half of the time, along elements, steps, tensors and draws") {
  const int axis = GENERATE(0, 1, 2, 3);
  const int64_t n = 1 << 17;
  std::array<int64_t, 16> set = {};
  for (int64_t i = 0; i < n; ++i) {
    NoiseId id = kId;
    if (axis == 1) id.step = static_cast<uint32_t>(i);
    if (axis == 2) id.tensor = static_cast<uint32_t>(i);
    if (axis == 3) id.draw = static_cast<uint32_t>(i);
    const uint16_t dither = dither_at(id, axis == 0 ? i : 3);
    for (int bit = 0; bit < 16; ++bit) set[bit] += dither >> bit & 1;
  }
  for (int bit = 0; bit < 16; ++bit) {
    INFO("axis " << axis << ", bit " << bit);
    CHECK(std::fabs(static_cast<double>(set[bit]) - 0.5 * n) < 2.5 * std::sqrt(n));
  }
}
