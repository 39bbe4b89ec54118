// The inverse normal CDF against erfc, and the deviates that are drawn from it.
#include "kernels/numerics/normal.h"

#include "kernels/numerics/philox.h"
#include "tests/catch.h"
#include "tests/numerics/reference.h"

using namespace dither;
using namespace dither::reference;

namespace {

/// How far z is from the quantile of p, as a share of z: the error of the CDF at z, over the density. Around the middle
/// the CDF is measured from 1/2 (erf), in the lower tail from 0 (erfc): each keeps its digits there.
double relative_error(double z, double p) {
  const auto x = static_cast<long double>(z);
  const long double density = std::exp(-0.5L * x * x) / std::sqrt(2 * std::acos(-1.0L));
  const long double excess = p > 0.075 ? 0.5L * std::erf(x / std::sqrt(2.0L)) - (static_cast<long double>(p) - 0.5L)
                                       : 0.5L * std::erfc(-x / std::sqrt(2.0L)) - p;
  return static_cast<double>(std::fabs(excess / density / x));
}

}  // namespace

// Catches: one wrong digit in any of the 44 coefficients, a branch switched at the wrong place (0.425; r = 5 is
// p = 1.4e-11), a lost sign.
TEST_CASE("inverse_normal_cdf is within 2e-15 of the quantile, in the middle and far down the tail") {
  Broken broken;
  Random random(1);
  for (int i = 0; i < 100000; ++i) {
    const double middle = 0.5 + random.sign() * random.log_uniform(1e-9, 0.425);
    const double tail = random.log_uniform(1e-13, 0.075);
    const double far_tail = random.log_uniform(1e-300, 1e-11);
    for (double p : {middle, tail, far_tail}) broken.unless(relative_error(inverse_normal_cdf(p), p) < 2e-15, p);
  }
  REQUIRE_NONE(broken);
  CHECK(inverse_normal_cdf(0.5) == 0.0);
}

// Catches: an upper tail computed from another formula, deviates that are p = bits / 2^32 (not symmetric, and Inf at
// 0).
TEST_CASE("normal deviates are exactly symmetric and rise with their bits") {
  Broken broken;
  Random random(2);
  for (int i = 0; i < 100000; ++i) {
    const auto bits = static_cast<uint32_t>(random.bits());
    broken.unless(normal_deviate(bits) == -normal_deviate(~bits), bits);
  }
  for (uint64_t bits = 0; bits + 40009 < uint64_t{1} << 32; bits += 40009) {
    const auto lower = static_cast<uint32_t>(bits), upper = static_cast<uint32_t>(bits + 40009);
    broken.unless(normal_deviate(lower) < normal_deviate(upper), bits);
  }
  REQUIRE_NONE(broken);
  CHECK(normal_deviate(0) == Approx(-6.3382).epsilon(1e-4));  // the quantile of 2^-33: the largest weight is 6.3 sd
  CHECK(normal_deviate(0x80000000u) > 0);
  CHECK(normal_deviate(0x7FFFFFFFu) < 0);
}

// Catches: a wrong scale. z^2 bends no more than -2 ln p. A part's mean of -2 ln p exceeds the midpoint's value by
// 2 - 2 ln 2 = 0.61 in the first part and by about 1 / (12 (k + 1/2)^2) in part k: below 1.4 for both tails, over n.
TEST_CASE("the quantiles of n equal parts have mean 0 and variance 1 up to 2 / n") {
  const int n = 1 << 18;
  double sum = 0, squares = 0;
  for (int i = 0; i < n; ++i) {
    const double z = inverse_normal_cdf((i + 0.5) / n);
    sum += z;
    squares += z * z;
  }
  CHECK(std::fabs(sum / n) < 1e-12);
  CHECK(std::fabs(squares / n - 1) < 2.0 / n);
}

// Catches: words that are correlated between elements or tensors. Sample moments of a normal have the standard
// deviations 1, sqrt 2, sqrt 15 and sqrt 96 over sqrt n; five of them are allowed, for neighbours' products too.
TEST_CASE("deviates drawn along a tensor have the moments of a normal and do not know their neighbours") {
  const int n = 1 << 18;
  const uint32_t tensor = GENERATE(0u, 1u, 77u);
  double moments[5] = {}, neighbours = 0, previous = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double z = normal_deviate(random_word({1337, tensor, 0, RandomStream::initialisation, 0}, i));
    double power = 1;
    for (double& moment : moments) moment += power / n, power *= z;
    neighbours += z * previous / n;
    previous = z;
  }
  const double sd = 1 / std::sqrt(n);
  CHECK(std::fabs(moments[1]) < 5 * sd);
  CHECK(std::fabs(moments[2] - 1) < 5 * std::sqrt(2) * sd);
  CHECK(std::fabs(moments[3]) < 5 * std::sqrt(15) * sd);
  CHECK(std::fabs(moments[4] - 3) < 5 * std::sqrt(96) * sd);
  CHECK(std::fabs(neighbours) < 5 * sd);
}
