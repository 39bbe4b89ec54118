// Instructions of PTX that CUDA C++ has no function for: asynchronous copies to shared memory, matrix fragments and
// their product on the tensor cores, 2^x. Under plain C++ the same functions run on the host (tests/cuda_host/ptx.h).
//
// All 32 lanes of a warp execute ldmatrix and mma together. group = lane / 4 and pair = 2 * (lane % 4) say what a lane
// holds of a matrix; every register is two BF16, the first in the low half.
//   8x8 matrix     row group, columns pair, pair + 1; transposed: rows pair, pair + 1 of column group
//   A [16,16]      a0: row group, columns pair + {0,1};  a1: row group + 8;  a2, a3: the same rows, columns + 8
//   B [k 16, n 8]  b0: k = pair + {0,1}, n = group;  b1: k + 8
//   C [16,8] FP32  c0, c1: row group, columns pair + {0,1};  c2, c3: row group + 8
// So C of two neighbouring n, rounded and packed, is A of the k that they were.
#pragma once

#include "kernels/cuda/device.h"

namespace dither {

constexpr float kLog2E = 1.44269504f;  // e^x = 2^(x log2(e)), for exp2_approx()

}  // namespace dither

#ifndef __CUDACC__
#include "tests/cuda_host/ptx.h"
#else

namespace dither {

/// Starts a copy of `bytes` (0 to 16) of 16 bytes to shared memory, zeros behind them. Both addresses are multiples of
/// 16 bytes; from where no byte is taken, none is read. Past the first-level cache: nobody else on the SM wants it.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, int bytes) {
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
      "l"(__cvta_generic_to_global(global)), "r"(bytes)
      : "memory");
}

/// Closes a group of copies: those that this thread has started since the last time.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most the latest `kPending` groups of this thread are under way. Other threads see what the copies
/// brought behind a barrier alone.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// A place in shared memory as these instructions take it; bytes may be added, or bits turned.
using SharedAddress = uint32_t;
__device__ __forceinline__ SharedAddress shared_address(const void* place) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(place));
}

/// Four 8x8 matrices of BF16; lane i names row i % 8 of matrix i / 8: 16 bytes at a multiple of 16. r[j] is matrix j.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

/// The same, each matrix transposed.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

/// C += A B. Products of BF16 are exact in FP32; in which order the sixteen are added is the device's.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// 2^x, error at most 2 ulp; subnormal results are 0, 2^-Inf is 0.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Both rounded to BF16 by RN.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

/// The same value, of which the compiler knows nothing: what depends on it is computed where it is used, not once
/// before a loop and kept in registers through it.
__device__ __forceinline__ uint32_t computed_here(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

/// a * b + c, rounded once.
__device__ __forceinline__ float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }

}  // namespace dither

#endif
