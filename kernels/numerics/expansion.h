// Error-free transforms and length-2 expansions in BF16: x = hi + lo, |lo| <= ulp(hi)/2. NUMERICS 4.
//
// Every + - * is a BF16 operation: the FP32 operation, then RN. That is the correctly rounded BF16 result, because
// 24 >= 2*8 + 2. The product of two BF16 has 16 bits and is exact in FP32, so a*b - RN(a*b) is exact as well.
// Sources: Dekker 1971; Knuth, TAOCP 2; Yu et al., "Collage", arXiv 2405.03637. Values travel as floats that hold a
// BF16. All of it holds while nothing overflows and no product falls below FP32's normal range.
#pragma once

#include "kernels/numerics/bf16.h"

namespace dither {

DITHER_INLINE float bf16_add(float a, float b) { return as_bf16(a + b); }
DITHER_INLINE float bf16_sub(float a, float b) { return as_bf16(a - b); }
DITHER_INLINE float bf16_mul(float a, float b) { return as_bf16(a * b); }

/// RN(a*b + c), rounded once. The FP32 sum is first rounded to odd: if TwoSum finds an error and the last bit is 0, the
/// neighbour on the error's side has last bit 1. RN to BF16 of an odd 24-bit result cannot be misled (24 >= 8 + 2).
DITHER_INLINE float bf16_fma(float a, float b, float c) {
  const float p = a * b;  // exact
  const float s = p + c;
  const float cc = s - p;
  const float error = (p - (s - cc)) + (c - cc);
  const uint32_t bits = std::bit_cast<uint32_t>(s);
  const uint32_t outward = (error > 0) == (s > 0) ? 1u : ~0u;
  const bool inexact = error > 0 || error < 0;  // NaN where s is infinite: leave that s alone
  const uint32_t odd = inexact && (bits & 1u) == 0 ? bits + outward : bits;
  return as_bf16(std::bit_cast<float>(odd));
}

struct Expansion {
  float hi, lo;
};

/// hi + lo = a + b exactly, for any a and b.
DITHER_INLINE Expansion two_sum(float a, float b) {
  const float s = bf16_add(a, b);
  const float bb = bf16_sub(s, a);
  const float aa = bf16_sub(s, bb);
  return {s, bf16_add(bf16_sub(a, aa), bf16_sub(b, bb))};
}

/// hi + lo = a + b exactly, for |a| >= |b|.
DITHER_INLINE Expansion fast_two_sum(float a, float b) {
  const float s = bf16_add(a, b);
  return {s, bf16_sub(b, bf16_sub(s, a))};
}

/// hi + lo = a * b exactly.
DITHER_INLINE Expansion two_prod(float a, float b) {
  const float p = bf16_mul(a, b);
  return {p, a * b - p};
}

/// The expansion of an FP32 number whose hi is RN(x): lo is the BF16 nearest to x - hi that leaves hi = RN(hi + lo).
/// Where RN(x - hi) is half an ulp of an odd hi, hi + lo would be a tie that goes to the other neighbour; lo is the
/// next number towards 0 then. Infinite or NaN where x is so in BF16.
DITHER_INLINE Expansion pair_of(float x) {
  const float hi = as_bf16(x);
  const float lo = as_bf16(x - hi);  // x - hi is exact
  const float sum = bf16_add(hi, lo);
  const bool other = sum < hi || sum > hi;  // false for NaN
  return {hi, other ? std::bit_cast<float>(std::bit_cast<uint32_t>(lo) - 0x10000u) : lo};
}

/// x + e.hi + e.lo as an expansion. The error of e.hi + x is TwoSum's: |x| > |e.hi| happens for small weights.
DITHER_INLINE Expansion grow(Expansion e, float x) {
  const Expansion sum = two_sum(e.hi, x);
  return fast_two_sum(sum.hi, bf16_add(e.lo, sum.lo));
}

/// e * b as an expansion; e.lo * b.lo is dropped (second order). e.hi * b.lo enters by one fused operation: rounded
/// apart, it is a bias that triples the error of v at beta2 = 0.999.
DITHER_INLINE Expansion multiply(Expansion e, Expansion b) {
  const Expansion p = two_prod(e.hi, b.hi);
  const float lo = bf16_add(bf16_fma(e.hi, b.lo, bf16_mul(e.lo, b.hi)), p.lo);
  return fast_two_sum(p.hi, lo);
}

/// x as an expansion: RN(x) by way of FP32, and RN of the rest; for constants of the config such as beta2.
DITHER_INLINE Expansion expansion_of(double x) {
  const float hi = as_bf16(static_cast<float>(x));
  return {hi, as_bf16(static_cast<float>(x - hi))};
}

}  // namespace dither
