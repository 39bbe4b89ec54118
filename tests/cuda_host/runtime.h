// The words of CUDA C++ for kernels that are compiled as plain C++: under them the tests run every handwritten kernel
// on the host, with the sanitizers and in several orders of its threads (execution.h).
//
// Meaning is CUDA's where a correct kernel cannot tell the difference. What a correct kernel must not do ends the test:
// a barrier that some threads of the block miss, a shuffle that a lane of the warp misses or whose mask leaves one out.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>  // memcpy
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}  // NOLINT: CUDA's
};

namespace dither::cuda_host {

/// Where the running thread of a kernel stands.
struct ThreadPlace {
  dim3 thread, block, block_size, grid_size;
};
const ThreadPlace& place();

void barrier();  // __syncthreads

/// Waits for all lanes of the warp, each with its value; returns that of lane `source`, or its own where there is no
/// such lane.
uint64_t exchange(unsigned mask, uint64_t value, unsigned source);
/// Waits for all lanes; bit i is set if lane i brought true.
unsigned vote(unsigned mask, bool value);

unsigned lane();                      // of the running thread in its warp
void* shared_memory(int64_t offset);  // of the block: what launch() asked for, poisoned before each block

template <class T>
T exchanged(unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(mask, bits, source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace dither::cuda_host

#define threadIdx (::dither::cuda_host::place().thread)
#define blockIdx (::dither::cuda_host::place().block)
#define blockDim (::dither::cuda_host::place().block_size)
#define gridDim (::dither::cuda_host::place().grid_size)

inline void __syncthreads() { dither::cuda_host::barrier(); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { dither::cuda_host::vote(mask, true); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned segment = dither::cuda_host::lane() / static_cast<unsigned>(width) * static_cast<unsigned>(width);
  return dither::cuda_host::exchanged(mask, value,
                                      segment + static_cast<unsigned>(source) % static_cast<unsigned>(width));
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return dither::cuda_host::exchanged(mask, value, dither::cuda_host::lane() ^ static_cast<unsigned>(lanes));
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned own = dither::cuda_host::lane(), place = own % static_cast<unsigned>(width);
  const bool inside = place + delta < static_cast<unsigned>(width);
  return dither::cuda_host::exchanged(mask, value, inside ? own + delta : own);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned own = dither::cuda_host::lane(), place = own % static_cast<unsigned>(width);
  return dither::cuda_host::exchanged(mask, value, place >= delta ? own - delta : own);
}

inline unsigned __ballot_sync(unsigned mask, bool value) { return dither::cuda_host::vote(mask, value); }
inline bool __any_sync(unsigned mask, bool value) { return dither::cuda_host::vote(mask, value) != 0; }
inline bool __all_sync(unsigned mask, bool value) { return dither::cuda_host::vote(mask, !value) == 0; }

/// Integers alone: the order of floating-point atomics varies, and no kernel of this house may use them.
template <class T>
T atomicAdd(T* place, T value) {
  static_assert(std::is_integral_v<T>);
  return __atomic_fetch_add(place, value, __ATOMIC_RELAXED);
}
template <class T>
T atomicMax(T* place, T value) {
  static_assert(std::is_integral_v<T>);
  T seen = __atomic_load_n(place, __ATOMIC_RELAXED);
  while (seen < value && !__atomic_compare_exchange_n(place, &seen, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return seen;
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
