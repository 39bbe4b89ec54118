// Elementary functions from + - * / and bit patterns alone, so that both backends and every C library give the same
// bits.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/numerics/host_device.h"

namespace dither {

/// e^x in FP32, relative error below 2^-22 on [-87, 88]; 0 below and e^88 above: finite, so that no 0 * Inf follows.
/// Written without branches: loops over it vectorise. Polynomial: Cephes' expf (Moshier).
DITHER_HOST_DEVICE inline float exp_fp32(float x) {
  constexpr float kRoundToInteger = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low mantissa bits
  const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float shifted = clamped * 1.44269504f + kRoundToInteger;
  const float n = shifted - kRoundToInteger;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts: n * 0.693359375 is exact
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float mantissa = (p * (r * r) + r) + 1.0f;
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRoundToInteger) + 127u) << 23;
  const float y = mantissa * std::bit_cast<float>(exponent);
  const float result = x < -87.0f ? 0.0f : y;
  return x != x ? x : result;
}

/// 1 / (1 + e^-x), relative error below 2^-21 from x = -87 on; below x = -88 it stays at e^-88 (6e-39).
DITHER_HOST_DEVICE inline float sigmoid(float x) { return 1.0f / (1.0f + exp_fp32(-x)); }

/// ln x in FP64 for normal x > 0, error below 3 ulp: x = m * 2^e with m in [sqrt(1/2), sqrt(2)], then the series of
/// 2 artanh((m-1)/(m+1)), whose argument is below 0.172.
DITHER_HOST_DEVICE inline double log_fp64(double x) {
  constexpr uint64_t kSqrtHalf = 0x3FE6A09E667F3BCDull;
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  const int64_t e = static_cast<int64_t>(bits - kSqrtHalf) >> 52;
  const double m = std::bit_cast<double>(bits - (static_cast<uint64_t>(e) << 52));
  const double f = (m - 1.0) / (m + 1.0);
  const double f2 = f * f;
  double series = 0;
  for (int k = 23; k >= 3; k -= 2) series = (series + 1.0 / k) * f2;
  return static_cast<double>(e) * 0.693147180559945309417 + (2.0 * f + 2.0 * f * series);
}

/// GELU in its tanh form: 0.5 x (1 + tanh(u)) = x * sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3). Error below
/// 2^-20 * max(1, |x|) for |x| < 1e6.
DITHER_HOST_DEVICE inline float gelu(float x) {
  const float u2 = 1.5957691216f * (x + 0.044715f * x * x * x);
  return x * sigmoid(u2);
}

/// d gelu / dx, error below 2^-17 for |x| < 1e6 (1 - s cancels; far outside, x^2 overflows).
DITHER_HOST_DEVICE inline float gelu_derivative(float x) {
  const float u2 = 1.5957691216f * (x + 0.044715f * x * x * x);
  const float du2 = 1.5957691216f * (1.0f + 3.0f * 0.044715f * x * x);
  const float s = sigmoid(u2);
  return s + x * s * (1.0f - s) * du2;
}

/// x * sigmoid(x), the gate of SwiGLU, relative error below 2^-21 from x = -87 on; and its derivative, error below
/// 2^-18 for |x| < 1e6.
DITHER_HOST_DEVICE inline float silu(float x) { return x * sigmoid(x); }
DITHER_HOST_DEVICE inline float silu_derivative(float x) {
  const float s = sigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}

}  // namespace dither
