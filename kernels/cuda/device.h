// CUDA's words for the kernels, and the one kind of shared memory they use. Compiled by nvcc they are CUDA's own;
// compiled as plain C++, as the tests do, they run on the host (tests/cuda_host).
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "tests/cuda_host/runtime.h"
#endif

#include <cstdint>

/// Before a loop whose arrays must stay in registers: indexed at run time they would go to local memory.
#ifdef __CUDACC__
#define DITHER_UNROLL _Pragma("unroll")
#else
#define DITHER_UNROLL
#endif

namespace dither {

constexpr int kWarpLanes = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

/// The block's shared memory from byte `offset` on: launch() says how many bytes there are. All of it is dynamic, so
/// that one mechanism serves every kernel; what it holds at the start is undefined (poison, under the tests).
template <class T>
__device__ __forceinline__ T* shared_memory(int64_t offset = 0) {
#ifdef __CUDACC__
  extern __shared__ __align__(128) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes + offset);
#else
  return static_cast<T*>(cuda_host::shared_memory(offset));
#endif
}

}  // namespace dither
