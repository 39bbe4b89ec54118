// exp, log and the activations against FP64 and long double, at the bounds that their header states.
#include "kernels/numerics/elementary.h"

#include "tests/catch.h"
#include "tests/numerics/reference.h"

using namespace dither;
using namespace dither::reference;

namespace {

double exact_sigmoid(double x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }

/// Every stride-th FP32 of either sign with a magnitude up to `most`; stride is odd, so that all last bits occur.
template <typename Check>
void comb(float most, uint32_t stride, Check check) {
  for (uint32_t bits = 0; bits <= bits_of(most); bits += stride) {
    check(float_of(bits));
    check(-float_of(bits));
  }
}

constexpr float kMost = 1e6f;  // up to here the header promises its bounds

}  // namespace

// Catches: a coefficient off in its fifth digit, ln 2 in one part, an exponent that leaves its field at either end.
TEST_CASE("exp_fp32 is within 2^-22 of e^x from -87 to 88") {
  Broken broken;
  comb(88.0f, 251, [&](float x) {
    if (x < -87.0f) return;
    const double exact = std::exp(double{x});
    broken.unless(std::fabs(exp_fp32(x) - exact) <= 0x1p-22 * exact, x);
  });
  REQUIRE_NONE(broken);
  CHECK(exp_fp32(0.0f) == 1.0f);
  CHECK(exp_fp32(-0.0f) == 1.0f);
}

// Catches: a wrapped exponent outside the range, a NaN that the clamp turns into a number.
TEST_CASE("exp_fp32 is 0 below -87, e^88 above 88, and NaN of NaN") {
  CHECK(exp_fp32(-87.00001f) == 0.0f);
  CHECK(exp_fp32(-1e30f) == 0.0f);
  CHECK(exp_fp32(-INFINITY) == 0.0f);
  CHECK(exp_fp32(88.00001f) == exp_fp32(88.0f));
  CHECK(exp_fp32(INFINITY) == exp_fp32(88.0f));
  CHECK(std::isfinite(exp_fp32(88.0f)));
  CHECK(std::isnan(exp_fp32(std::bit_cast<float>(0x7FC00000u))));
  CHECK(std::isnan(exp_fp32(std::bit_cast<float>(0xFF800001u))));
}

// Catches: a series cut short, a wrong split at sqrt(1/2), an exponent off by one, ln 2 in FP32.
TEST_CASE("log_fp64 is within 3 ulp of ln x for every exponent, near 1 and at the ends") {
  Broken broken;
  const auto check = [&](double x) {
    const long double exact = std::log(static_cast<long double>(x));
    const double ulp = exact == 0 ? 0 : std::ldexp(1.0, std::ilogb(static_cast<double>(exact)) - 52);
    broken.unless(std::fabs(static_cast<double>(log_fp64(x) - exact)) <= 3 * ulp, x);
  };
  Random random(1);
  for (int i = 0; i < 300000; ++i) {
    const double mantissa = 1 + random.uniform();
    check(std::ldexp(mantissa, static_cast<int>(random.between(-1022, 1023))));
    check(std::ldexp(mantissa, static_cast<int>(random.between(-2, 2))));
    check(1 + random.sign() * std::ldexp(mantissa, -static_cast<int>(random.between(2, 52))));
    check(std::ldexp(0.70710678118654752 + random.sign() * std::ldexp(mantissa, -40), 1 - i % 3));  // at the split
  }
  check(1.0);
  check(std::numeric_limits<double>::min());
  check(std::numeric_limits<double>::max());
  REQUIRE_NONE(broken);
}

// Catches: sigmoid(-x), x * sigmoid without the x, 1 + e^x. Roundings: exp 2^-22, then the sum, the quotient and the
// product 2^-24 each: below 2^-21.
TEST_CASE("sigmoid and silu are within 2^-21 of their values from -87 on and vanish below") {
  Broken broken;
  comb(kMost, 1009, [&](float x) {
    const double exact = exact_sigmoid(x);
    if (x < -87.0f) {
      broken.unless(sigmoid(x) >= 0 && sigmoid(x) <= 0x1p-125 && silu(x) <= 0 && silu(x) >= -kMost * 0x1p-125, x);
      return;
    }
    broken.unless(std::fabs(sigmoid(x) - exact) <= 0x1p-21 * exact, x);
    const double product = std::fabs(x * exact);
    if (product < 0x1p-120) return;  // a subnormal result has fewer bits
    broken.unless(std::fabs(silu(x) - x * exact) <= 0x1p-21 * product, x);
  });
  REQUIRE_NONE(broken);
}

// Catches: x left out, the sign of 1 - s, a derivative of something else.
TEST_CASE("silu_derivative is within 2^-18 of the derivative of silu") {
  Broken broken;
  comb(kMost, 1009, [&](float x) {
    const double s = exact_sigmoid(x);
    broken.unless(std::fabs(silu_derivative(x) - s * (1 + x * exact_sigmoid(-x))) <= 0x1p-18, x);
  });
  REQUIRE_NONE(broken);
}

// Catches: sqrt(2/pi) without its 2, 0.044715 misplaced, x^2 for x^3, the erf form (2e-4 away).
TEST_CASE("gelu and its derivative are those of the tanh form") {
  Broken broken;
  const double factor = std::sqrt(2 / std::acos(-1.0));
  comb(kMost, 1009, [&](float xf) {
    const double x = xf;
    const double t = std::tanh(factor * (x + 0.044715 * x * x * x));
    broken.unless(std::fabs(gelu(xf) - 0.5 * x * (1 + t)) <= 0x1p-20 * std::max(1.0, std::fabs(x)), x);
    const double derivative = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * factor * (1 + 3 * 0.044715 * x * x);
    broken.unless(std::fabs(gelu_derivative(xf) - derivative) <= 0x1p-17, x);
  });
  REQUIRE_NONE(broken);
}
