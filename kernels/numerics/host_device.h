// Functions that compute the same bits on the host and, compiled by nvcc, on the device.
#pragma once

#ifdef __CUDACC__
#define DITHER_HOST_DEVICE __host__ __device__
#else
#define DITHER_HOST_DEVICE
#endif

/// For functions too long for a compiler's taste that must be inlined, or the loop around them does not vectorise.
#define DITHER_ALWAYS_INLINE __attribute__((always_inline)) inline
