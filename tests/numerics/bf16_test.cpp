// BF16 and its roundings, over all 65,536 values and all 65,536 dithers.
#include "kernels/numerics/bf16.h"

#include "tests/catch.h"
#include "tests/numerics/reference.h"

using namespace dither;
using namespace dither::reference;

namespace {

constexpr uint16_t kLargest = 0x7F7F;  // the largest finite BF16
constexpr uint32_t kSign = 0x80000000u;

bool is_nan_pattern(uint32_t bits) { return (bits & 0x7FFFFFFFu) > 0x7F800000u; }

/// round_nearest(x) has the bits of the reference; of a NaN: upper half with the quiet bit.
bool nearest_is_right(uint32_t bits) {
  const uint16_t found = round_nearest(float_of(bits)).bits;
  if (is_nan_pattern(bits)) return found == ((bits >> 16) | 0x40u);
  return uint32_t{found} << 16 == bits_of(static_cast<float>(nearest_bf16(double{float_of(bits)})));
}

}  // namespace

// Catches: a shift by another width, a lost sign, a NaN test that takes Inf or misses a payload, a quiet bit set on
// Inf.
TEST_CASE("every BF16 is an FP32 with a zero lower half, and both roundings give it back") {
  Broken broken;
  for (uint32_t pattern = 0; pattern < 65536; ++pattern) {
    const Bf16 x{static_cast<uint16_t>(pattern)};
    const float wide = to_float(x);
    broken.unless(bits_of(wide) == pattern << 16, pattern);
    const uint32_t back = is_nan_pattern(pattern << 16) ? pattern | 0x40u : pattern;
    broken.unless(round_nearest(wide).bits == back, pattern);
    for (uint32_t dither : {0u, 1u, 0x7FFFu, 0x8000u, 0xFFFFu}) {
      broken.unless(round_stochastic(wide, static_cast<uint16_t>(dither)).bits == back, pattern, dither);
    }
  }
  REQUIRE_NONE(broken);
}

// Catches: ties away from zero, ties to odd, truncation, 0x8000 added without the parity, a carry that stops at the
// exponent, an overflow threshold one FP32 off, subnormals flushed.
TEST_CASE("round_nearest is right at every BF16, every midpoint and one FP32 beside them") {
  Broken broken;
  for (uint32_t pattern = 0; pattern <= 0x7F80; ++pattern) {
    const uint32_t bits = pattern << 16;
    for (uint32_t offset : {0xFFFFFFFFu, 0u, 1u, 0x7FFFu, 0x8000u, 0x8001u}) {
      if (pattern == 0 && offset == 0xFFFFFFFFu) continue;  // there is nothing below zero's magnitude
      broken.unless(nearest_is_right(bits + offset), bits + offset);
      broken.unless(nearest_is_right((bits + offset) | kSign), (bits + offset) | kSign);
    }
  }
  REQUIRE_NONE(broken);
  CHECK(round_nearest(float_of(0x7F7F7FFFu)).bits == kLargest);
  CHECK(round_nearest(float_of(0x7F7F8000u)).bits == 0x7F80);
  CHECK(round_nearest(float_of(0xFF7F8000u)).bits == 0xFF80);
}

// Catches: an error that lives only at bits which the neighbourhoods above do not touch.
TEST_CASE("round_nearest is right on a comb over all FP32") {
  Broken broken;
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 9973) {  // a prime: all lower halves occur
    broken.unless(nearest_is_right(static_cast<uint32_t>(bits)), bits);
  }
  REQUIRE_NONE(broken);
}

// Catches: truncation, round to nearest, dither + 1, a 15-bit dither, a dither that is never even, a lost sign, a
// dither added to the signed value, subnormals flushed.
TEST_CASE("stochastic rounding is exact in the mean over all dithers and meets only the two neighbours") {
  const uint32_t magnitude = GENERATE(
      as<uint32_t>{}, 0x00000000, 0x00000001, 0x00008000, 0x0000FFFF, 0x00010000, 0x00010001,  // below and at 2^-133
      0x007F0001, 0x007FFFFF, 0x00800000, 0x00800001,                                          // around 2^-126
      0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3F808000, 0x3FFFFFFF,                              // around 1 and 2
      0x3B449BA6, 0x477FFFE6, 0x0DA24260, 0x7E967699,  // 3e-3, 65535.9, 1e-30, 1e38
      0x7F000000, 0x7F7EFFFF, 0x7F7F0000);             // 2^127, below the largest finite BF16, itself
  const uint32_t bits = magnitude | GENERATE(as<uint32_t>{}, 0u, kSign);
  const float x = float_of(bits);
  const double step = step_bf16(x);
  const double inner = std::trunc(x / step) * step;
  const double outer = inner + std::copysign(step, x);
  double sum = 0;  // exact: 65,536 multiples of one step with 8-bit factors
  Broken broken;
  for (uint32_t dither = 0; dither < 65536; ++dither) {
    const float y = to_float(round_stochastic(x, static_cast<uint16_t>(dither)));
    broken.unless(y == inner || y == outer, dither, y);
    broken.unless(std::signbit(y) == std::signbit(x), dither, y);
    sum += y;
  }
  INFO("x = " << x);
  REQUIRE_NONE(broken);
  REQUIRE(sum == 65536.0 * x);
}

// Catches: an overflow to Inf, a clamp of one sign only, a clamp that also pulls down values inside the range.
TEST_CASE("stochastic rounding clamps to the largest finite BF16 of either sign, and only there is it biased") {
  const uint32_t bits = GENERATE(as<uint32_t>{}, 0x7F7F0001, 0x7F7F8000, 0x7F7FFFFF);
  Broken broken;
  for (uint32_t dither = 0; dither < 65536; ++dither) {
    const auto r = static_cast<uint16_t>(dither);
    broken.unless(round_stochastic(float_of(bits), r).bits == kLargest, bits, dither);
    broken.unless(round_stochastic(float_of(bits | kSign), r).bits == (kLargest | 0x8000u), bits, dither);
  }
  REQUIRE_NONE(broken);
  REQUIRE(double{to_float({kLargest})} < double{float_of(bits)});  // the bias: the mean lies below x
}

// Catches: 0x7F800001 truncated to Inf, a NaN pushed over by the dither into -0 or the other sign, Inf clamped.
TEST_CASE("infinities and NaN pass stochastic rounding under every dither") {
  Broken broken;
  for (uint32_t dither = 0; dither < 65536; ++dither) {
    const auto r = static_cast<uint16_t>(dither);
    for (uint32_t sign : {0u, kSign}) {
      broken.unless(round_stochastic(float_of(0x7F800000u | sign), r).bits == (0x7F80u | sign >> 16), dither);
      for (uint32_t nan : {0x7F800001u, 0x7F80FFFFu, 0x7FBFFFFFu, 0x7FC00000u, 0x7FFFFFFFu}) {
        const uint32_t found = round_stochastic(float_of(nan | sign), r).bits;
        broken.unless(found == ((nan | sign) >> 16 | 0x40u), nan | sign, dither);
        broken.unless(std::isnan(to_float({static_cast<uint16_t>(found)})), nan | sign, dither);
      }
    }
  }
  REQUIRE_NONE(broken);
}

// Catches: a NaN payload of the lower half alone lost by either rounding.
TEST_CASE("every NaN stays a NaN of its sign, with the upper half of its payload") {
  Broken broken;
  for (uint32_t upper = 0x7F80; upper <= 0xFFFF; upper = upper == 0x7FFF ? 0xFF80 : upper + 1) {
    for (uint32_t lower : {0u, 1u, 0x7FFFu, 0x8000u, 0xFFFFu}) {
      const uint32_t bits = upper << 16 | lower;
      if (!is_nan_pattern(bits)) continue;
      broken.unless(round_nearest(float_of(bits)).bits == (upper | 0x40u), bits);
      for (uint32_t dither : {0u, 1u, 0xFFFFu}) {
        broken.unless(round_stochastic(float_of(bits), static_cast<uint16_t>(dither)).bits == (upper | 0x40u), bits);
      }
    }
  }
  REQUIRE_NONE(broken);
}
