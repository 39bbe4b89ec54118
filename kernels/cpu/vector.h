// Sixteen FP32 values at once, from BF16 or FP32 memory and back: what the loops of this folder are made of.
//
//   load   BF16 -> FP32 exactly, or FP32 as it is        store   one rounding, the bits of round_nearest()
//   fma    a * b + c, rounded once, where the source asks for it: nothing else is ever contracted
//   sum    a fixed tree over the lanes: i and i + 8, then + 4, + 2, + 1
//
// A reduction keeps sixteen partial sums whatever the processor: a compiler without 512-bit registers cuts `Lanes` into
// pieces, and the bits stay. Channels come in multiples of 8, so a row may end in half a vector: sweep() hands the body
// `Whole` for each full sixteen and `Half` for the last eight, whose upper lanes load as 0 and are not stored.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __FMA__
#include <immintrin.h>
#endif

#include "kernels/view.h"

// Without 512-bit registers compilers warn about how such a vector is passed to a function. It never is.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace dither {

constexpr int kLanes = 16;

using Lanes = float __attribute__((vector_size(64)));
using LaneBits = uint32_t __attribute__((vector_size(64)));
using LaneHalves = uint16_t __attribute__((vector_size(32)));

using Whole = std::integral_constant<int, kLanes>;
using Half = std::integral_constant<int, kLanes / 2>;

/// x in every lane: subtracting 0 changes no value, not even -0, so the compiler leaves a broadcast.
DITHER_INLINE Lanes lanes_of(float x) { return x - Lanes{}; }

/// The first eight lanes of x, then zeros.
DITHER_INLINE Lanes kept(Lanes x, Whole) { return x; }
DITHER_INLINE Lanes kept(Lanes x, Half) {
  return __builtin_shufflevector(x, Lanes{}, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
}

DITHER_INLINE Lanes load(const float* from, Whole = {}) {
  Lanes x;
  std::memcpy(&x, from, sizeof(x));
  return x;
}
DITHER_INLINE Lanes load(const float* from, Half) {
  using Eight = float __attribute__((vector_size(32)));
  Eight x;
  std::memcpy(&x, from, sizeof(x));
  return __builtin_shufflevector(x, Eight{}, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

DITHER_INLINE Lanes widened(LaneHalves x) {
#ifdef __AVX512F__
  const auto wide = LaneBits(_mm512_maskz_cvtepu16_epi32(0xFFFF, __m256i(x)));  // GCC 12 needs four for the line below
#else
  const auto wide = __builtin_convertvector(x, LaneBits);
#endif
  return std::bit_cast<Lanes>(wide << 16);
}

DITHER_INLINE Lanes load(const Bf16* from, Whole = {}) {
  LaneHalves x;
  std::memcpy(&x, from, sizeof(x));
  return widened(x);
}
DITHER_INLINE Lanes load(const Bf16* from, Half) {
  using Eight = uint16_t __attribute__((vector_size(16)));
  Eight x;
  std::memcpy(&x, from, sizeof(x));
  return widened(__builtin_shufflevector(x, Eight{}, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

template <class Part = Whole>
DITHER_INLINE void store(float* to, Lanes x, Part part = {}) {
  std::memcpy(to, &x, part * sizeof(float));
}

/// round_nearest() of every lane, in vectors because compilers do not find that form by themselves.
template <class Part = Whole>
DITHER_INLINE void store(Bf16* to, Lanes x, Part part = {}) {
  const auto bits = std::bit_cast<LaneBits>(x);
  const LaneBits rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const LaneBits nan = (bits >> 16) | 0x0040u;
  const LaneBits chosen = (bits & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded;
  const LaneHalves halves = __builtin_convertvector(chosen, LaneHalves);
  std::memcpy(static_cast<void*>(to), &halves, part * sizeof(Bf16));
}

/// One value from memory or for it, where a loop is left with fewer than eight.
inline float widened(Bf16 x) { return to_float(x); }
inline float widened(float x) { return x; }
template <class T>
inline T rounded(float x) {
  if constexpr (std::is_same_v<T, Bf16>) {
    return round_nearest(x);
  } else {
    return x;
  }
}

/// One rounding. Without the instruction (before Haswell) the library computes the same bits, slowly.
DITHER_INLINE Lanes fma(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX512F__)
  return Lanes(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
#elif defined(__FMA__)
  using Pair = struct { __m256 low, high; };
  const auto x = std::bit_cast<Pair>(a), y = std::bit_cast<Pair>(b), z = std::bit_cast<Pair>(c);
  return std::bit_cast<Lanes>(Pair{_mm256_fmadd_ps(x.low, y.low, z.low), _mm256_fmadd_ps(x.high, y.high, z.high)});
#else
  for (int i = 0; i < kLanes; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
#endif
}

/// f(float) of every lane, for the functions of elementary.h: the loop becomes vector instructions on both compilers.
template <class F>
DITHER_INLINE Lanes map(Lanes x, const F& f) {
  alignas(64) float lane[kLanes];
  store(lane, x);
#pragma omp simd simdlen(16)
  for (int i = 0; i < kLanes; ++i) lane[i] = f(lane[i]);
  return load(lane);
}

DITHER_INLINE float sum(Lanes x) {
  using Eight = float __attribute__((vector_size(32)));
  using Four = float __attribute__((vector_size(16)));
  struct Eights {
    Eight low, high;
  };
  struct Fours {
    Four low, high;
  };
  const auto eights = std::bit_cast<Eights>(x);
  const auto fours = std::bit_cast<Fours>(Eight(eights.low + eights.high));
  const Four four = fours.low + fours.high;
  return (four[0] + four[2]) + (four[1] + four[3]);
}

/// body(c, Whole) for every full sixteen of a row of C values, then body(c, Half) if eight are left. C % 8 == 0.
template <class Body>
DITHER_INLINE void sweep(int64_t C, const Body& body) {
  int64_t c = 0;
  for (; c + kLanes <= C; c += kLanes) body(c, Whole{});
  if (c < C) body(c, Half{});
}

template <class T>
T* data_of(View view) {
  return static_cast<T*>(view.data);
}
template <class T>
const T* data_of(ConstView view) {
  return static_cast<const T*>(view.data);
}

/// body(Bf16{}) or body(float{}): the loops are templates over the stored type, chosen once an operation.
template <class Body>
void with_type(DType type, const Body& body) {
  if (type == DType::bf16) {
    body(Bf16{});
  } else {
    body(float{});
  }
}

}  // namespace dither
