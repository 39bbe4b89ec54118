// Normal deviates from an inverse CDF in FP64 with + - * / sqrt only, so that initial weights have the same bits on
// every machine and backend. Source: Wichura, "The Percentage Points of the Normal Distribution", Applied Statistics 37
// (1988), algorithm AS 241 (PPND16); here its relative error is below 2e-15.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/numerics/elementary.h"  // log_fp64: the library's log has other bits elsewhere

namespace dither {

/// (n[0] + n[1] r + ... + n[7] r^7) / (1 + d[0] r + ... + d[6] r^7)
DITHER_HOST_DEVICE inline double rational7(const double (&n)[8], const double (&d)[7], double r) {
  double numerator = n[7];
  for (int i = 6; i >= 0; --i) numerator = numerator * r + n[i];
  double denominator = d[6];
  for (int i = 5; i >= 0; --i) denominator = denominator * r + d[i];
  return numerator / (denominator * r + 1.0);
}

/// The z with P(Z < z) = p for a standard normal Z; 0 < p < 1.
DITHER_HOST_DEVICE inline double inverse_normal_cdf(double p) {
  constexpr double a[8] = {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
                           1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
                           3.3430575583588128105e4, 2.5090809287301226727e3};
  constexpr double b[7] = {4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
                           2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4,
                           5.2264952788528545610e3};
  constexpr double c[8] = {1.42343711074968357734e0,  4.63033784615654529590e0, 5.76949722146069140550e0,
                           3.64784832476320460504e0,  1.27045825245236838258e0, 2.41780725177450611770e-1,
                           2.27238449892691845833e-2, 7.74545014278341407640e-4};
  constexpr double d[7] = {2.05319162663775882187e0,  1.67638483018380384940e0,  6.89767334985100004550e-1,
                           1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
                           1.05075007164441684324e-9};
  constexpr double e[8] = {6.65790464350110377720e0,  5.46378491116411436990e0,  1.78482653991729133580e0,
                           2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
                           2.71155556874348757815e-5, 2.01033439929228813265e-7};
  constexpr double f[7] = {5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
                           7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7,
                           2.04426310338993978564e-15};
  const double q = p - 0.5;
  if (q >= -0.425 && q <= 0.425) return q * rational7(a, b, 0.180625 - q * q);
  const double r = std::sqrt(-log_fp64(q < 0 ? p : 1.0 - p));
  const double z = r <= 5.0 ? rational7(c, d, r - 1.6) : rational7(e, f, r - 5.0);
  return q < 0 ? -z : z;
}

/// A standard normal deviate from 32 random bits: p is the middle of one of 2^32 equal parts of (0, 1).
DITHER_HOST_DEVICE inline double normal_deviate(uint32_t bits) {
  return inverse_normal_cdf((static_cast<double>(bits) + 0.5) * 0x1p-32);
}

}  // namespace dither
