// Functions that compute the same bits on the host and, compiled by nvcc, on the device.
#pragma once

#ifdef __CUDACC__
#define DITHER_HOST_DEVICE __host__ __device__
#else
#define DITHER_HOST_DEVICE
#endif

/// For what runs once an element: a compiler that stops inlining in a large file leaves a call in the loop, which then
/// does not vectorise.
#define DITHER_INLINE DITHER_HOST_DEVICE __attribute__((always_inline)) inline
