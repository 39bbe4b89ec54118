// BF16 operations, error-free transforms and expansions against FP64, in which sums and products of a few BF16 are
// exact.
#include "kernels/numerics/expansion.h"

#include "tests/catch.h"
#include "tests/numerics/reference.h"

using namespace dither;
using namespace dither::reference;

namespace {

constexpr double kUnit = 0x1p-8;  // RN to BF16 is off by at most this share of the result

/// All pairs of mantissas 128..255, the second scaled by 2^gap and of either sign, both times 2^exponent.
template <typename Check>
void for_all_pairs(int exponent, int least_gap, int most_gap, Check check) {
  for (int gap = least_gap; gap <= most_gap; ++gap) {
    for (int i = 128; i < 256; ++i) {
      for (int j = 128; j < 256; ++j) {
        const float a = std::ldexp(static_cast<float>(i), exponent);
        const float b = std::ldexp(static_cast<float>(j), exponent + gap);
        check(a, b);
        check(a, -b);
      }
    }
  }
}

/// hi and lo are BF16, hi is RN of the sum: what every expansion promises.
bool is_normalised(Expansion e) {
  return is_bf16(e.hi) && is_bf16(e.lo) && nearest_bf16(double{e.hi} + double{e.lo}) == double{e.hi};
}

double value(Expansion e) { return double{e.hi} + double{e.lo}; }

/// A BF16 near 1 and a second component of at most half its ulp, down to 2^-20 of that and sometimes zero.
Expansion random_expansion(Random& random) {
  const float hi = random.bf16(-3, 3);
  if (random.below(8) == 0) return {hi, 0.0f};
  const double most = 0.5 * step_bf16(hi);
  const double lo = nearest_bf16(most * random.sign() * random.log_uniform(0x1p-20, 1));
  const Expansion e = {hi, static_cast<float>(lo)};
  return is_normalised(e) ? e : Expansion{hi, 0.0f};  // below a power of two the ulp is half as large
}

}  // namespace

// Catches: truncation, an operation left in FP32, subtraction with swapped operands. Gaps beyond 12 leave a alone.
TEST_CASE("BF16 sums, differences and products are the exact results rounded once, for all mantissas") {
  const int exponent = GENERATE(0, -130, 100);  // subnormals begin below 2^-126, a mantissa here is 2^7..2^8
  Broken broken;
  for_all_pairs(exponent, exponent == -130 ? 0 : -12, 12, [&](float a, float b) {
    broken.unless(bf16_add(a, b) == nearest_bf16(double{a} + double{b}), a, b);
    broken.unless(bf16_sub(a, b) == nearest_bf16(double{a} - double{b}), a, b);
  });
  for_all_pairs(exponent / 2, 0, 0,
                [&](float a, float b) { broken.unless(bf16_mul(a, b) == nearest_bf16(double{a} * double{b}), a, b); });
  REQUIRE_NONE(broken);
}

// Catches: Fast2Sum in TwoSum's place (|a| < |b|), an error term that lost a piece, an error of the wrong sign, one
// that is no BF16.
TEST_CASE("two_sum keeps every bit of a sum, for all mantissas, whichever is larger") {
  const int exponent = GENERATE(0, -133, 100);
  Broken broken;
  for_all_pairs(exponent, exponent == -133 ? 0 : -18, 18, [&](float a, float b) {
    const Expansion e = two_sum(a, b);
    broken.unless(value(e) == double{a} + double{b} && is_normalised(e), a, b);
  });
  REQUIRE_NONE(broken);
}

// Catches: an error formed from the wrong operand: b - (s - a) with a and b swapped is exact only for |a| <= |b|.
TEST_CASE("fast_two_sum keeps every bit of a sum whose first operand is the larger") {
  Broken broken;
  for_all_pairs(0, -18, 0, [&](float a, float b) {
    if (std::fabs(a) < std::fabs(b)) return;
    const Expansion e = fast_two_sum(a, b);
    broken.unless(value(e) == double{a} + double{b} && is_normalised(e), a, b);
  });
  REQUIRE_NONE(broken);
}

// Catches: the same at distances where FP64 could not hold the sum: the smaller operand must come out as the error.
TEST_CASE("two_sum of operands far apart returns them both") {
  Broken broken;
  Random random(1);
  for (int i = 0; i < 100000; ++i) {
    const float a = random.bf16(-20, 120);
    const float b = random.bf16(-133 + 8, -31);
    const Expansion large_first = two_sum(a, b), small_first = two_sum(b, a);
    broken.unless(large_first.hi == a && large_first.lo == b, a, b);
    broken.unless(small_first.hi == a && small_first.lo == b, a, b);
  }
  REQUIRE_NONE(broken);
}

// Catches: the error of the product taken after a second rounding, or of the wrong sign.
TEST_CASE("two_prod keeps every bit of a product, for all mantissas") {
  const int exponent = GENERATE(0, -62, 55);  // -62: the error's last bit is 2^-124, still normal
  Broken broken;
  for_all_pairs(exponent, 0, 0, [&](float a, float b) {
    const Expansion e = two_prod(a, b);
    broken.unless(value(e) == double{a} * double{b} && is_normalised(e), a, b);
  });
  REQUIRE_NONE(broken);
}

// Catches: the FP32 sum rounded to nearest instead of to odd (it forgets c, or turns a near tie into a tie), the
// neighbour taken on the wrong side.
TEST_CASE("bf16_fma decides every tie of a product by an addend however small") {
  Broken broken;
  int64_t ties = 0;
  for (int i = 128; i < 256; ++i) {
    for (int j = 128; j < 256; ++j) {
      const int n = i * j;  // 2^14 .. 2^16: a BF16 holds its upper 8 bits
      const int dropped = n < 1 << 15 ? 7 : 8;
      if ((n & ((1 << dropped) - 1)) != 1 << (dropped - 1)) continue;
      ++ties;
      for (int sign_p : {1, -1}) {
        for (int sign_c : {1, 0, -1}) {
          for (int exponent : {0, -2, -9, -10, -11, -20, -60}) {
            const float c = std::ldexp(static_cast<float>(sign_c), exponent);
            const float found = bf16_fma(static_cast<float>(sign_p * i), static_cast<float>(j), c);
            const auto exact =
                (static_cast<__int128>(sign_p * n) << 60) + (static_cast<__int128>(sign_c) << (60 + exponent));
            broken.unless(found == nearest_bf16(exact, -60), sign_p * i, j, c);
          }
        }
      }
    }
  }
  REQUIRE(ties > 100);
  REQUIRE_NONE(broken);
}

// Catches: double rounding anywhere else, cancellation gone wrong. Half of the addends lie where 16 bits of product and
// 8 of c just overlap FP32's 24.
TEST_CASE("bf16_fma is the exact a*b + c rounded once") {
  Broken broken;
  Random random(2);
  for (int i = 0; i < 2000000; ++i) {
    const auto a = random.between(128, 255), b = random.between(128, 255) * (random.below(2) == 0 ? 1 : -1);
    const auto c = random.between(128, 255) * (random.below(2) == 0 ? 1 : -1);
    const int shift = static_cast<int>(random.below(2) == 0 ? random.between(13, 18) : random.between(-40, 40));
    const float found =
        bf16_fma(static_cast<float>(a), static_cast<float>(b), std::ldexp(static_cast<float>(c), shift));
    const __int128 exact = (static_cast<__int128>(a * b) << 40) + (static_cast<__int128>(c) << (40 + shift));
    broken.unless(found == nearest_bf16(exact, -40), a, b, c, shift);
  }
  for_all_pairs(0, 0, 0, [&](float a, float b) {
    const double exact = double{a} * double{b};
    broken.unless(bf16_fma(a, b, -bf16_mul(a, b)) == exact - nearest_bf16(exact), a, b);
  });
  REQUIRE_NONE(broken);
}

// Catches: an infinity moved to its neighbour's bits, which are a NaN's.
TEST_CASE("bf16_fma overflows to the infinity of its sign") {
  CHECK(bf16_fma(3e38f, 4.0f, 1.0f) == INFINITY);
  CHECK(bf16_fma(-3e38f, 4.0f, 1.0f) == -INFINITY);
  CHECK(bf16_fma(1.0f, 1.0f, -INFINITY) == -INFINITY);
  CHECK(std::isnan(bf16_fma(1.0f, INFINITY, -INFINITY)));
}

// Catches: lo = RN(x - hi) where that is half an ulp of an odd hi, so that hi + lo belongs to another hi; a hi other
// than RN(x); a lo that is further from x - hi than the rule needs.
TEST_CASE("an FP32 number becomes the nearest pair whose hi is RN of it and of the sum") {
  Broken broken;
  int64_t moved = 0;
  const auto check = [&](float x) {
    const Expansion e = pair_of(x);
    const double rest = nearest_bf16(double{x} - e.hi);
    broken.unless(double{e.hi} == nearest_bf16(x) && is_normalised(e), x, e.lo);
    if (nearest_bf16(e.hi + rest) == double{e.hi}) return broken.unless(double{e.lo} == rest, x, e.lo);
    ++moved;  // to the neighbour of half an ulp towards 0
    broken.unless(std::fabs(e.lo) < std::fabs(rest) && std::fabs(rest - e.lo) <= 0x1p-8 * std::fabs(rest), x, e.lo);
  };
  for (uint32_t upper = 0x3F80; upper < 0x4000; ++upper) {  // every mantissa, of both signs, with every rest at ties
    for (uint32_t lower = 0x7E00; lower < 0x8200; ++lower) {
      const float x = float_of(upper << 16 | lower);
      check(x);
      check(-x);
    }
  }
  Random random(21);
  for (int i = 0; i < 200'000; ++i) check(static_cast<float>(random.sign() * random.log_uniform(0x1p-100, 0x1p100)));
  REQUIRE_NONE(broken);
  REQUIRE(moved > 1000);
}

// Catches: Fast2Sum for hi + x (|x| > |hi| happens), an lo that is not added, added twice or added before the sum's own
// error, a result that is not normalised. The bound counts one rounding, of lo + error, and nothing else.
TEST_CASE("grow is its published program, bit by bit, and loses at most one rounding of the low part") {
  Broken broken;
  Random random(3);
  for (int i = 0; i < 1000000; ++i) {
    const Expansion e = random_expansion(random);
    float x = random.bf16(-20, 8);
    if (i % 4 == 0) x = -static_cast<float>(nearest_bf16(e.hi * (1 + 0.02 * random.uniform())));  // cancellation
    const Expansion found = grow(e, x);

    const double exact_sum = double{e.hi} + double{x};
    const double sum = nearest_bf16(exact_sum);
    const double low = double{e.lo} + (exact_sum - sum);
    const double hi = nearest_bf16(sum + nearest_bf16(low));
    const double lo = sum + nearest_bf16(low) - hi;
    broken.unless(found.hi == hi && found.lo == lo, e.hi, e.lo, x);
    broken.unless(is_normalised(found), e.hi, e.lo, x);
    broken.unless(std::fabs(value(found) - (value(e) + x)) <= kUnit * std::fabs(low), e.hi, e.lo, x);
  }
  REQUIRE_NONE(broken);
}

// Catches: the error of hi*hi formed after hi was overwritten, hi*lo rounded apart (two roundings exceed the bound), a
// cross product left out, lo terms swapped. The bound: what is dropped, then one rounding of each of three operations.
TEST_CASE("multiply is its published program, bit by bit, within the three roundings of its low part") {
  Broken broken;
  Random random(4);
  for (int i = 0; i < 1000000; ++i) {
    const Expansion a = random_expansion(random);
    const Expansion b = i % 2 == 0 ? random_expansion(random) : expansion_of(1 - random.log_uniform(1e-5, 0.2));
    const Expansion found = multiply(a, b);

    const double exact_product = double{a.hi} * double{b.hi};
    const double product = nearest_bf16(exact_product);
    const double cross = nearest_bf16(double{a.lo} * double{b.hi});
    const double fused = double{a.hi} * double{b.lo} + cross;  // gaps below 30: exact in FP64
    const double low = nearest_bf16(fused) + (exact_product - product);
    const double hi = nearest_bf16(product + nearest_bf16(low));
    const double lo = product + nearest_bf16(low) - hi;
    broken.unless(found.hi == hi && found.lo == lo, a.hi, a.lo, b.hi, b.lo);
    broken.unless(is_normalised(found), a.hi, a.lo, b.hi, b.lo);
    const double dropped = std::fabs(double{a.lo} * double{b.lo});
    const double roundings = kUnit * (std::fabs(double{a.lo} * double{b.hi}) + std::fabs(fused) + std::fabs(low));
    broken.unless(std::fabs(value(found) - value(a) * value(b)) <= dropped + roundings, a.hi, a.lo, b.hi, b.lo);
  }
  REQUIRE_NONE(broken);
}

// Catches: a rest taken from the FP64 value's other side, a rest left in FP32. Figures: NUMERICS 1.
TEST_CASE("the BF16 images of the usual betas and their rests are the documented ones") {
  struct Row {
    double beta, hi, lo;
  };
  for (const Row& row :
       {Row{0.9, 0.8984375, 0.0015640259}, Row{0.95, 0.94921875, 0.00078201294}, Row{0.98, 0.98046875, -0.00046920776},
        Row{0.99, 0.98828125, 0.0017166138}, Row{0.995, 0.99609375, -0.0010910034}, Row{0.999, 1.0, -0.00099945068}}) {
    const Expansion found = expansion_of(row.beta);
    INFO("beta " << row.beta);
    CHECK(found.hi == row.hi);
    CHECK(std::fabs(found.lo - row.lo) <= 5e-8 * std::fabs(row.lo));  // eight printed digits
    CHECK(is_normalised(found));
  }
}
