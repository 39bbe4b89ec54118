// ExactSum against integers of 128 bits: the same bits in every order, and no bit lost inside its range.
#include "kernels/numerics/exact_sum.h"

#include <algorithm>
#include <vector>

#include "tests/catch.h"
#include "tests/numerics/reference.h"

using namespace dither;
using namespace dither::reference;

namespace {

uint64_t bits_of_value(const ExactSum& sum) { return std::bit_cast<uint64_t>(sum.value()); }

ExactSum sum_of(const std::vector<double>& values) {
  ExactSum sum;
  for (double x : values) sum.add(x);
  return sum;
}

double ulp(double x) { return std::nextafter(std::fabs(x), INFINITY) - std::fabs(x); }

/// Mantissas of 53 bits at exponents from 2^-96 (its last bits are dropped) to just below 2^95.
std::vector<double> wide_values(Random& random, int n) {
  std::vector<double> values;
  for (int i = 0; i < n; ++i) {
    values.push_back(random.sign() * std::ldexp(1 + random.uniform(), static_cast<int>(random.between(-96, 94))));
  }
  return values;
}

}  // namespace

// Catches: a plain FP64 sum, a value() that depends on how the digits came about (carries left in other places).
TEST_CASE("an exact sum has the same bits in every order and every grouping") {
  Random random(1);
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::vector<double> values = wide_values(random, 400);
    const uint64_t expected = bits_of_value(sum_of(values));
    std::reverse(values.begin(), values.end());
    REQUIRE(bits_of_value(sum_of(values)) == expected);
    std::sort(values.begin(), values.end());
    REQUIRE(bits_of_value(sum_of(values)) == expected);
    for (size_t i = values.size() - 1; i > 0; --i) std::swap(values[i], values[random.below(static_cast<int64_t>(i))]);
    ExactSum parts[7], whole;
    for (size_t i = 0; i < values.size(); ++i) parts[i * i % 7].add(values[i]);
    for (const ExactSum& part : parts) whole.add(part);
    REQUIRE(bits_of_value(whole) == expected);
  }
}

// Catches: a digit cut at the wrong bit, a mantissa without its hidden bit, a sign applied to one digit only. The terms
// are multiples of 2^-60 below 2^50: their sum is an integer of 128 bits.
TEST_CASE("an exact sum is the true sum, to 2 ulp of FP64, for both signs") {
  Broken broken;
  Random random(2);
  for (int repeat = 0; repeat < 20000; ++repeat) {
    ExactSum sum;
    __int128 exact = 0;
    const int most = static_cast<int>(random.between(-50, 50));
    for (int i = 0; i < 20; ++i) {
      const int exponent = static_cast<int>(random.between(-60, std::max(-60, most - 53)));
      const auto mantissa = static_cast<int64_t>(random.bits() >> 11) * (random.below(3) == 0 ? -1 : 1);
      sum.add(std::ldexp(static_cast<double>(mantissa), exponent));
      exact += static_cast<__int128>(mantissa) << (exponent + 60);
    }
    const double expected = std::ldexp(static_cast<double>(exact), -60);
    broken.unless(std::fabs(sum.value() - expected) <= 2 * ulp(expected), repeat, sum.value(), expected);
  }
  REQUIRE_NONE(broken);
}

// Catches: a shift or a digit index wrong for some exponent, a top digit whose sign is lost.
TEST_CASE("every FP64 from 2^-44 to 2^96 comes back exactly, and minus itself makes zero") {
  Broken broken;
  Random random(3);
  for (int exponent = -44; exponent < 96; ++exponent) {
    for (int i = 0; i < 200; ++i) {
      const double mantissa = i == 0 ? 1.0 : i == 1 ? 2 - 0x1p-52 : 1 + random.uniform();
      const double x = random.sign() * std::ldexp(mantissa, exponent);
      ExactSum sum;
      sum.add(x);
      broken.unless(sum.value() == x, x);
      sum.add(-x);
      broken.unless(bits_of_value(sum) == 0, x);
    }
  }
  REQUIRE_NONE(broken);
}

// Catches: a floating-point accumulator, a negative sum whose small digits drown in the complement.
TEST_CASE("what a large term hides comes back when that term leaves") {
  Random random(4);
  for (double tiny : {0x1p-96, -0x1p-96, 0x1.8p-95, -1.0, 3e-20}) {
    ExactSum sum;
    sum.add(tiny);
    const std::vector<double> values = wide_values(random, 100);
    for (double x : values) sum.add(x);
    for (double x : values) sum.add(-x);
    sum.add(0x1p95);
    sum.add(-0x1p95);
    ExactSum alone;
    alone.add(tiny);
    REQUIRE(bits_of_value(sum) == bits_of_value(alone));
    REQUIRE(std::signbit(sum.value()) == std::signbit(tiny));
  }
}

// Catches: carries that stop after one digit, digits that overflow before the 2^31 additions promised. Doubling the sum
// n times is 2^n additions.
TEST_CASE("2^31 additions of full digits fit, of either sign") {
  const double sign = GENERATE(1.0, -1.0);
  const int exponent = GENERATE(-96, -64, -51, 0, 31, 43);
  const double x = sign * std::ldexp(9007199254740991.0, exponent);  // 53 ones
  ExactSum sum;
  sum.add(x);
  for (int i = 0; i < 31; ++i) sum.add(ExactSum(sum));
  REQUIRE(sum.value() == x * 0x1p31);
  sum.add(-x);
  REQUIRE(sum.value() == Approx(x * 0x1p31).epsilon(1e-9));
}

// Catches: rounding instead of dropping (x and -x must stay opposite), a threshold one exponent off, subnormals taken
// for numbers with a hidden bit, a shift by 64 or more.
TEST_CASE("below 2^-96 bits are dropped toward zero, from 2^96 on numbers count as not finite") {
  const auto value = [](double x) { return sum_of({x}).value(); };
  CHECK(value(0x1p-96) == 0x1p-96);
  CHECK(value(0x1.fffffffffffffp-96) == 0x1p-96);
  CHECK(value(-0x1.fffffffffffffp-96) == -0x1p-96);
  CHECK(value(0x1.8000000000001p-60) == 0x1.8p-60);
  for (double small : {0x1.fffffffffffffp-97, 0x1p-149, 0x1p-160, 0x1p-161, 0x1p-1022, 0x1p-1074, 0.0, -0.0}) {
    CHECK(value(small) == 0.0);
    CHECK(value(-small) == 0.0);
  }
  CHECK(value(0x1.fffffffffffffp95) == 0x1.fffffffffffffp95);
  CHECK(value(-0x1.fffffffffffffp95) == -0x1.fffffffffffffp95);
  CHECK(std::isnan(value(0x1p96)));
  CHECK(std::isnan(value(-0x1p96)));
}

// Catches: Inf - Inf that cancels the count, a count lost in merging, a NaN added into the digits.
TEST_CASE("one number that is not finite makes the sum NaN for good, and is counted") {
  for (double bad : {double{INFINITY}, -double{INFINITY}, std::numeric_limits<double>::quiet_NaN(), 1e300}) {
    ExactSum sum = sum_of({1.0, bad, 2.0});
    CHECK(std::isnan(sum.value()));
    CHECK(sum.non_finite == 1);
    sum.add(-bad);
    ExactSum other = sum_of({1.0});
    other.add(sum);
    CHECK(std::isnan(other.value()));
    CHECK(other.non_finite == 2);
    CHECK(other.digit[3] == 4);  // 2^0 is digit 3: 1 + 1 + 2 are still there
  }
}
