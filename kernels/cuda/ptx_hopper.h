// Instructions of Hopper (sm_90a) beside those of ptx.h: barriers in shared memory that also count bytes, the bulk copy
// of a box (tensor_map.h), products of a warpgroup on the tensor cores, the way of fragments to shared memory. Under
// plain C++ the same functions run on the host (tests/cuda_host/ptx_hopper.h).
//
// Barriers    mbarrier, 8 bytes: a phase ends when `count` threads have arrived and every byte that they announced has
//             come. Waiting for parity 0, then 1, then 0 ... is waiting for the first, second, third ... phase.
// Products    C [64, n] += A [64,16] B [16, n], by the 128 threads of a warpgroup, asynchronously: until wgmma_wait()
//             says that its group is done, a product may read A and B and write C at any time. Rows 16 w .. 16 w + 15
//             belong to warp w; what a lane holds of them, C and A alike, is what mma_bf16() says (ptx.h), c[j] being
//             columns 8 j .. 8 j + 7.
// Descriptors name a matrix in shared memory whose rows of 128 bytes lie as bulk copies leave them:
//             bits 0-13 address / 16 · 16-29 leading offset / 16 · 32-45 stride offset / 16 · 49-51 zero, as groups of
//             eight rows begin at multiples of 1,024 bytes · 62-63 one: the 128-byte swizzle
#pragma once

#include "kernels/cuda/ptx.h"
#include "kernels/cuda/tensor_map.h"

#ifndef __CUDACC__
#include "tests/cuda_host/ptx_hopper.h"
#else

namespace dither {

/// By one thread, before any other use; other threads and the copy engine know the barrier behind fence_barrier_init()
/// of that thread and a __syncthreads().
__device__ __forceinline__ void mbarrier_init(SharedAddress barrier, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// Arrives, and announces bytes that copies will bring in this phase.
__device__ __forceinline__ void mbarrier_expect_bytes(SharedAddress barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void mbarrier_arrive(SharedAddress barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/// Waits for the end of the phase of that parity: the running one or the one before it.
__device__ __forceinline__ void mbarrier_wait(SharedAddress barrier, uint32_t parity) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile("{\n .reg .pred p;\n mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
  }
}

/// Starts the copy of the box whose first element stands at these coordinates, the contiguous one first, to a multiple
/// of 1,024 bytes. Its bytes, zeros from outside of the tensor included, count for the barrier's running phase.
__device__ __forceinline__ void tma_load(SharedAddress to, const TensorMap* map, SharedAddress barrier, int at0,
                                         int at1, int at2, int at3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(at0), "r"(at1), "r"(at2), "r"(at3)
      : "memory");
}

/// The compiler may move no use of these registers from one side of here to the other.
template <int N>
__device__ __forceinline__ void pin_registers(float (&c)[N][4]) {
  DITHER_UNROLL
  for (int i = 0; i < 4 * N; ++i) asm volatile("" : "+f"(c[i / 4][i % 4])::"memory");
}
template <int K>
__device__ __forceinline__ void pin_registers(uint32_t (&a)[K][4]) {
  DITHER_UNROLL
  for (int i = 0; i < 4 * K; ++i) asm volatile("" : "+r"(a[i / 4][i % 4])::"memory");
}

/// Before products, naming all their registers, C and A: behind whatever else has touched them.
template <class... Registers>
__device__ __forceinline__ void wgmma_fence(Registers&... registers) {
  (pin_registers(registers), ...);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/// Closes a group of products: those that this warp has started since the last time.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

/// Waits until at most the latest `kPending` groups of this warp are under way; c is what one of the others brings.
template <int kPending, int N>
__device__ __forceinline__ void wgmma_wait(float (&c)[N][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
  pin_registers(c);
}

#define DITHER_C8(j)                                                                                                   \
  "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3]), "+f"(c[j + 1][0]), "+f"(c[j + 1][1]), "+f"(c[j + 1][2]), \
      "+f"(c[j + 1][3])
#define DITHER_C32(j) DITHER_C8(j), DITHER_C8(j + 2), DITHER_C8(j + 4), DITHER_C8(j + 6)
#define DITHER_R32                                                                                                 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define DITHER_R64                                                                                         \
  DITHER_R32                                                                                               \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, " \
  "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

#define DITHER_TRUE "{\n .reg .pred p;\n setp.eq.u32 p, 0, 0;\n "  // C is always added to

/// C = A B, plus C where `accumulate`; both matrices in shared memory, k contiguous in both.
__device__ __forceinline__ void wgmma_k_major(float (&c)[16][4], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n .reg .pred p;\n setp.ne.b32 p, %66, 0;\n wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" DITHER_R64
      "}, %64, %65, p, 1, 1, 0, 0;\n}"
      : DITHER_C32(0), DITHER_C32(8)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

/// C += A B; A in registers, n contiguous in B.
__device__ __forceinline__ void wgmma_n_major(float (&c)[16][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(DITHER_TRUE "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" DITHER_R64
                           "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
               : DITHER_C32(0), DITHER_C32(8)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void wgmma_n_major(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(DITHER_TRUE "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" DITHER_R32
                           "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
               : DITHER_C32(0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef DITHER_C8
#undef DITHER_C32
#undef DITHER_R32
#undef DITHER_R64
#undef DITHER_TRUE

/// Stores four 8x8 matrices of BF16; lane i names the place of row i % 8 of matrix i / 8: 16 bytes at a multiple of 16.
__device__ __forceinline__ void stmatrix_x4(SharedAddress row, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
}

/// Gives registers of the warpgroup's threads back until each has `kCount`; takes more, waiting until they are there.
/// Executed by all four warps; multiples of 8.
template <int kCount>
__device__ __forceinline__ void release_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

/// A place as descriptors take it: in the block's window of shared memory, which begins at 0.
__device__ __forceinline__ uint32_t window_address(SharedAddress place) { return place; }

}  // namespace dither

#endif

namespace dither {

__device__ __forceinline__ uint64_t matrix_descriptor(SharedAddress start, int leading_bytes, int stride_bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  return kSwizzle128 | uint64_t{window_address(start) >> 4} |
         uint64_t{static_cast<uint32_t>(leading_bytes) >> 4} << 16 |
         uint64_t{static_cast<uint32_t>(stride_bytes) >> 4} << 32;
}

constexpr int kBoxRowBytes = kBoxColumns * 2;
constexpr int kEightRowsBytes = 8 * kBoxRowBytes;  // the swizzle's period

/// [rows, 16] of a box [rows, 64], k contiguous: rows from the one at `start` on, whose number is a multiple of 8; 16
/// columns from `start` on, a multiple of 32 bytes within the row.
__device__ __forceinline__ uint64_t k_major_descriptor(SharedAddress start) {
  return matrix_descriptor(start, 16, kEightRowsBytes);  // the leading offset is not looked at
}

/// [16, n] of boxes [rows, 64], n contiguous: 16 rows from the one at `start` on, a multiple of 8. `box_bytes` lead
/// from a box to that of the next 64 columns.
__device__ __forceinline__ uint64_t n_major_descriptor(SharedAddress start, int box_bytes) {
  return matrix_descriptor(start, box_bytes, kEightRowsBytes);
}

}  // namespace dither
