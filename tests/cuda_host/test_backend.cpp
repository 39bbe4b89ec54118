// The CUDA backend on the host, for the tests of operations and models. Each backend made runs its kernels in the next
// order of threads, so that repeated tests see several.
#include "tests/kernels/test_backend.h"

#include <iterator>  // size

#include "tests/cuda_host/execution.h"

namespace dither {

std::unique_ptr<Backend> test_backend(int /*threads*/) {
  static size_t made = 0;
  cuda_host::set_order(cuda_host::kOrders[made++ % std::size(cuda_host::kOrders)]);
  return make_cuda_backend(0);
}

}  // namespace dither
