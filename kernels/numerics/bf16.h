// BF16 and the three ways into it from FP32. NUMERICS 1 and 3.
//
//   1 sign, 8 exponent, 7 stored mantissa bits: the upper half of an FP32.   ulp(x) = 2^(e-7) for 2^e <= |x| < 2^(e+1)
//   RN   round to nearest, ties to even
//   SR   (bits + r) & 0xFFFF0000 with r uniform on 0..65535: away from zero with probability (bits & 0xFFFF) / 65536
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/numerics/host_device.h"

namespace dither {

struct Bf16 {
  uint16_t bits = 0;
  friend constexpr bool operator==(Bf16, Bf16) = default;  // of the bits: NaN equals itself, -0 differs from 0
};

/// Every BF16 is an FP32, so this is exact.
DITHER_INLINE float to_float(Bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

/// x rounded to BF16 by RN, as an FP32: the value of one BF16 operation whose FP32 result is x. All in 32 bits: loops
/// over it run at the full width of a vector.
DITHER_INLINE float as_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = bits + 0x7FFFu + ((bits >> 16) & 1u);
  const uint32_t nan = bits | 0x00400000u;
  return std::bit_cast<float>(((bits & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded) & 0xFFFF0000u);
}

/// RN to BF16. Finite values from 0x7F7F8000 (the largest finite BF16 plus half an ulp) on become Inf, as IEEE asks;
/// NaN stays NaN (its quiet bit is set, so that a payload in the lower half cannot vanish into Inf).
DITHER_INLINE Bf16 round_nearest(float x) { return {static_cast<uint16_t>(std::bit_cast<uint32_t>(as_bf16(x)) >> 16)}; }

/// SR to BF16 with 16 random bits. Representable values never move; Inf and NaN stay; what would overflow is clamped to
/// the largest finite BF16 of its sign. The mean over all 65,536 dithers is x exactly up to that clamp.
DITHER_INLINE Bf16 round_stochastic(float x, uint16_t dither) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  const uint32_t moved = (bits + dither) >> 16;
  const uint32_t largest = ((bits >> 16) & 0x8000u) | 0x7F7Fu;
  const uint32_t finite = (moved & 0x7FFFu) >= 0x7F80u ? largest : moved;
  const uint32_t special = (bits >> 16) | (magnitude > 0x7F800000u ? 0x0040u : 0u);
  return {static_cast<uint16_t>(magnitude >= 0x7F800000u ? special : finite)};
}

}  // namespace dither
