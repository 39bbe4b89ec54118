// The functions of kernels/cuda/ptx.h on the host; what a lane holds of a matrix is said there.
//
// Asynchronous copies arrive at the last moment a correct kernel may count on: the destination is poison from the
// copy's start until it is waited for, and the source is read then. ldmatrix reads a row when the lane that names it
// comes, not when the last one does: rows that other lanes have yet to write are seen as they are.
#pragma once

#include <cstdint>

#include "tests/cuda_host/execution.h"

namespace dither {

inline void cp_async_16(void* shared, const void* global, int bytes) { cuda_host::start_copy(shared, global, bytes); }
inline void cp_async_commit() { cuda_host::close_copy_group(); }
template <int kPending>
void cp_async_wait() {
  cuda_host::finish_copies(kPending);
}

using SharedAddress = uintptr_t;
inline SharedAddress shared_address(const void* place) { return reinterpret_cast<SharedAddress>(place); }

void ldmatrix_x4(uint32_t (&r)[4], SharedAddress row);
void ldmatrix_x4_trans(uint32_t (&r)[4], SharedAddress row);

/// Adds by rising k, FP32 after each step: one of the orders that the device may have.
void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <class T>
T computed_here(T x) {
  return x;
}
float exp2_approx(float x);
uint32_t pack_bf16(float low, float high);
float fma_rn(float a, float b, float c);

}  // namespace dither
