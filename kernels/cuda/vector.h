// Eight neighbouring elements at once: one 16-byte access for BF16, two for FP32; and sums over the lanes of a warp.
//
// Values are computed in FP32 registers. A pointer to eight elements is a multiple of their bytes: every channel count
// is a multiple of 8 and every tensor begins at a multiple of 256 bytes.
#pragma once

#include "kernels/cuda/ptx.h"
#include "kernels/numerics/bf16.h"
#include "kernels/view.h"

namespace dither {

struct alignas(16) FourWords {
  uint32_t word[4];
};

__device__ __forceinline__ void load8(const Bf16* from, float (&x)[8]) {
  const FourWords words = *reinterpret_cast<const FourWords*>(from);
  DITHER_UNROLL
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = std::bit_cast<float>(words.word[i] << 16);
    x[2 * i + 1] = std::bit_cast<float>(words.word[i] & 0xFFFF0000u);
  }
}

__device__ __forceinline__ void load8(const float* from, float (&x)[8]) {
  DITHER_UNROLL
  for (int half = 0; half < 2; ++half) {
    const FourWords words = *reinterpret_cast<const FourWords*>(from + 4 * half);
    DITHER_UNROLL
    for (int i = 0; i < 4; ++i) x[4 * half + i] = std::bit_cast<float>(words.word[i]);
  }
}

/// One 16-byte access, to global or shared memory. On the device in PTX: an assignment is sometimes cut into four.
__device__ __forceinline__ void store_words(void* to, const FourWords& words) {
#ifdef __CUDACC__
  asm volatile("st.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words.word[0]), "r"(words.word[1]),
               "r"(words.word[2]), "r"(words.word[3])
               : "memory");
#else
  *static_cast<FourWords*>(to) = words;
#endif
}

/// Each value rounded once, by RN: two by one instruction. A NaN may become another NaN.
__device__ __forceinline__ void store8(Bf16* to, const float (&x)[8]) {
  FourWords words;
  DITHER_UNROLL
  for (int i = 0; i < 4; ++i) words.word[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
  store_words(to, words);
}

/// The same, and a NaN keeps the bits that the CPU would give it: for values that are moved rather than computed.
__device__ __forceinline__ void move8(Bf16* to, const float (&x)[8]) {
  FourWords words;
  DITHER_UNROLL
  for (int i = 0; i < 4; ++i) {
    words.word[i] = uint32_t{round_nearest(x[2 * i]).bits} | uint32_t{round_nearest(x[2 * i + 1]).bits} << 16;
  }
  store_words(to, words);
}

__device__ __forceinline__ void store8(float* to, const float (&x)[8]) {
  DITHER_UNROLL
  for (int half = 0; half < 2; ++half) {
    FourWords words;
    DITHER_UNROLL
    for (int i = 0; i < 4; ++i) words.word[i] = std::bit_cast<uint32_t>(x[4 * half + i]);
    store_words(to + 4 * half, words);
  }
}

__device__ __forceinline__ void move8(float* to, const float (&x)[8]) { store8(to, x); }

__device__ __forceinline__ float load1(const Bf16* from) { return to_float(*from); }
__device__ __forceinline__ float load1(const float* from) { return *from; }
__device__ __forceinline__ void store1(Bf16* to, float x) { *to = round_nearest(x); }
__device__ __forceinline__ void store1(float* to, float x) { *to = x; }

/// x as an element of type T holds it.
template <class T>
__device__ __forceinline__ float as_stored(float x) {
  if constexpr (sizeof(T) == 2) return as_bf16(x);
  return x;
}

/// The sum over all lanes, in every lane: a butterfly, so its order is fixed and the same for all.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
  for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
  return x;
}

/// The sum over the lanes up to and with this one; threads of a warp lie along x.
template <class T>
__device__ __forceinline__ T warp_scan(T x) {
  for (unsigned lanes = 1; lanes < kWarpLanes; lanes *= 2) {
    const T below = __shfl_up_sync(kAllLanes, x, lanes);
    if (threadIdx.x % kWarpLanes >= lanes) x += below;
  }
  return x;
}

/// The greatest of all lanes, in every lane.
__device__ __forceinline__ float warp_max(float x) {
  for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, x, lanes);
    x = other > x ? other : x;
  }
  return x;
}

/// body(T()) with T the element type of a view: Bf16 or float.
template <class Body>
void with_element(DType type, const Body& body) {
  if (type == DType::bf16) {
    body(Bf16());
  } else {
    body(float());
  }
}

template <class T>
T* elements(View view) {
  return static_cast<T*>(view.data);
}
template <class T>
const T* elements(ConstView view) {
  return static_cast<const T*>(view.data);
}

}  // namespace dither
