// Functions that compute the same bits on the host and, compiled by nvcc, on the device.
#pragma once

#ifdef __CUDACC__
#define DITHER_HOST_DEVICE __host__ __device__
#else
#define DITHER_HOST_DEVICE
#endif
