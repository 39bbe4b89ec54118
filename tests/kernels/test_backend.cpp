#include "tests/kernels/test_backend.h"

namespace dither {

std::unique_ptr<Backend> test_backend(int threads) { return make_cpu_backend(threads); }

}  // namespace dither
