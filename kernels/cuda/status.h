// The calls of the CUDA runtime, and the one check of their status. Compiled as plain C++, as the tests do, the calls
// are those of the host's stand-in.
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "tests/cuda_host/cuda_runtime.h"
#endif

#include <cstdint>

namespace dither {

/// Throws Error "<operation>: cudaErrorInvalidValue (invalid argument), kernels/cuda/norm.cu:61" unless it succeeded.
void check_cuda(cudaError_t status, const char* operation, const char* file = __builtin_FILE(),
                int line = __builtin_LINE());

/// The same of a kernel's start, with its sizes.
void check_launch(cudaError_t status, const char* operation, dim3 grid, dim3 block, int64_t shared_bytes);

}  // namespace dither
