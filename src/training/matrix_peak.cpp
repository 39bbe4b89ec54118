#include "src/training/matrix_peak.h"

#include <algorithm>
#include <chrono>

namespace dither {

double measure_matrix_peak(Backend& backend, DType type) {
  constexpr int64_t kSize = 1536;  // large enough to hide the edges, small enough for a slow CPU
  constexpr int64_t kElements = kSize * kSize;
  const Stream stream;
  void* memory = backend.allocate(3 * kElements * size_of(type));
  const View x{memory, type}, weight = x.at(kElements), y = x.at(2 * kElements);
  const Strategy strategy = type == DType::fp32 ? Strategy::fp32 : Strategy::bf16;
  backend.initialise({.weight = x,
                      .extra = {},
                      .strategy = strategy,
                      .count = 2 * kElements,
                      .mean = 0,
                      .std = 1,
                      .tensor = 0,
                      .seed = 1},
                     stream);
  LinearForward product{};
  product.y = y;
  product.x = x;
  product.weight = weight;
  product.N = product.I = product.O = kSize;

  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  double best = 0;
  for (int run = 0; run < 8; ++run) {
    const Clock::time_point start = Clock::now();
    backend.linear_forward(product, stream);
    backend.synchronize(stream);
    const Clock::time_point end = Clock::now();
    best = std::max(best, product.flop() / std::chrono::duration<double>(end - start).count());
    if (std::chrono::duration<double>(end - begin).count() > 0.5) break;
  }
  backend.free(memory);
  return best;
}

}  // namespace dither
