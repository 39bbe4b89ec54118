// The one check of a CUDA call's status.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <source_location>

namespace dither {

/// Throws Error "<operation>: cudaErrorInvalidValue (invalid argument), kernels/cuda/norm.cu:61" unless it succeeded.
void check_cuda(cudaError_t status, const char* operation,
                std::source_location where = std::source_location::current());

/// The same of a kernel's start, with its sizes.
void check_launch(cudaError_t status, const char* operation, dim3 grid, dim3 block, int64_t shared_bytes);

}  // namespace dither
