// The vectors that the CPU's loops are made of: their roundings are those of the numerics headers, bit for bit.
#include "kernels/cpu/vector.h"

#include <bit>
#include <cstdint>
#include <vector>

#include "kernels/cpu/attention_tile.h"
#include "tests/catch.h"

namespace dither {
namespace {

// Catches: truncation, ties away from zero, a NaN that becomes Inf, lanes packed with saturation or in another order.
TEST_CASE("storing sixteen values rounds each as round_nearest does, for every BF16 and around it") {
  constexpr uint32_t kLower[kLanes] = {0,      1,      2,      0x4000, 0x7FFE, 0x7FFF, 0x8000, 0x8001,
                                       0x8002, 0x9000, 0xBFFF, 0xC000, 0xE000, 0xFFFD, 0xFFFE, 0xFFFF};
  for (uint32_t upper = 0; upper < 65536; ++upper) {
    float x[kLanes];
    for (int i = 0; i < kLanes; ++i) x[i] = std::bit_cast<float>(upper << 16 | kLower[i]);
    Bf16 y[kLanes];
    store(y, load(x));
    for (int i = 0; i < kLanes; ++i) {
      if (y[i] == round_nearest(x[i])) continue;
      CAPTURE(upper, i, y[i].bits);
      FAIL("differs from round_nearest");
    }
  }
}

// Catches: a load that converts the integer instead of moving its bits, a half that reads or writes past its eight.
TEST_CASE("loads are exact and a half touches eight values only") {
  for (uint32_t first = 0; first < 65536; first += kLanes) {
    Bf16 x[kLanes];
    for (uint32_t i = 0; i < kLanes; ++i) x[i].bits = static_cast<uint16_t>(first + i);
    const Lanes whole = load(x), half = load(x, Half{});
    for (int i = 0; i < kLanes; ++i) {
      const uint32_t expected = uint32_t{x[i].bits} << 16;
      REQUIRE(std::bit_cast<uint32_t>(float(whole[i])) == expected);
      REQUIRE(std::bit_cast<uint32_t>(float(half[i])) == (i < 8 ? expected : 0u));
    }
  }
  float to[kLanes];
  for (float& x : to) x = -1;
  store(to, lanes_of(3.0f), Half{});
  for (int i = 0; i < kLanes; ++i) REQUIRE(to[i] == (i < 8 ? 3.0f : -1.0f));
}

// Catches: a sum over lanes in another tree (large and small values cancel in this one only), lost or doubled lanes.
TEST_CASE("the sum over lanes is one fixed tree") {
  const float big = 16777216.0f;  // 2^24: adding 1 to it is lost
  float x[kLanes] = {big, 1, 2, 4, 8, 16, 32, 64, -big, 128, 256, 512, 1024, 2048, 4096, 8192};
  REQUIRE(sum(load(x)) == 16383.0f);  // pairs at distance 8 first: the two big ones meet before anything is lost
  x[4] = big, x[12] = -big;
  REQUIRE(sum(load(x)) == 16383.0f - 8 - 1024);
  x[8] = 1, x[4] = 8, x[12] = 1024, x[9] = -big;
  REQUIRE(sum(load(x)) != 15 + 16383.0);  // and this one does lose bits: the test is alive
}

// Catches: a transposition that swaps rounds, a tail of rows that is not zero, a factor applied twice or to some rows.
TEST_CASE("a transposed tile holds every value at its mirrored place and zeros behind the last row") {
  constexpr int kD = 48, kStride = 53;
  const int count = GENERATE(1, 15, 16, 17, 63, 64);
  std::vector<float> from(kTile * kStride), to(kD * kTile, -1.0f);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<float>(i + 1);
  load_transposed(to.data(), from.data(), kStride, count, kD, 2.0f);
  for (int d = 0; d < kD; ++d) {
    for (int r = 0; r < whole_lanes(count); ++r) {
      const float expected = r < count ? 2.0f * from[static_cast<size_t>(r * kStride + d)] : 0.0f;
      REQUIRE(to[static_cast<size_t>(d * kTile + r)] == expected);
    }
  }
}

// Catches: a piece of columns computed twice or left out (1 to 8 vectors), strides of A swapped, keep ignored.
TEST_CASE("a tile product is exact on integers for every width and both ways of storing A") {
  constexpr int kK = 21;
  const int vectors = GENERATE(1, 2, 3, 4, 5, 6, 7, 8);
  const int columns = vectors * kLanes;
  std::vector<float> a(kTileRows * kK), b(static_cast<size_t>(kK * columns)), c(static_cast<size_t>(4 * columns), 3.0f);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(static_cast<int>(i * 7 % 9) - 4);
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(static_cast<int>(i * 5 % 17) - 8);
  const bool across = GENERATE(false, true);
  const TileOperand operand = across ? TileOperand{a.data(), 1, kTileRows} : TileOperand{a.data(), kK, 1};
  const float keep[kTileRows] = {0.0f, 1.0f, 2.0f, -1.0f};
  const bool kept_rows = GENERATE(false, true);
  product_of_rows(c.data(), columns, operand, b.data(), columns, vectors, kK, kept_rows ? keep : nullptr);
  for (int r = 0; r < kTileRows; ++r) {
    for (int column = 0; column < columns; ++column) {
      float expected = kept_rows ? 3.0f * keep[r] : 0.0f;
      for (int k = 0; k < kK; ++k) {
        const int at = across ? k * kTileRows + r : r * kK + k;
        expected += a[static_cast<size_t>(at)] * b[static_cast<size_t>(k * columns + column)];
      }
      REQUIRE(c[static_cast<size_t>(r * columns + column)] == expected);
    }
  }
}

}  // namespace
}  // namespace dither
