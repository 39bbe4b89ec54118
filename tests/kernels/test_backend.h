// The backend that the tests of operations ask: the CPU's in test_kernels; in test_cuda_host, which compiles the same
// tests, one whose operations are the CUDA kernels run on the host.
#pragma once

#include <memory>

#include "kernels/backend.h"

namespace dither {

std::unique_ptr<Backend> test_backend(int threads);

}  // namespace dither
