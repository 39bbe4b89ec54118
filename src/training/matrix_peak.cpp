#include "src/training/matrix_peak.h"

#include <algorithm>
#include <chrono>

namespace dither {

namespace {

using Clock = std::chrono::steady_clock;

double rate(Backend& backend, DType type, int64_t size) {
  const int64_t elements = size * size;
  const Stream stream = backend.stream();
  void* memory = backend.allocate(3 * elements * size_of(type));
  const View x{memory, type}, weight = x.at(elements), y = x.at(2 * elements);
  const Strategy strategy = type == DType::fp32 ? Strategy::fp32 : Strategy::bf16;
  backend.initialise({.weight = x,
                      .extra = {},
                      .strategy = strategy,
                      .count = 2 * elements,
                      .mean = 0,
                      .std = 1,
                      .tensor = 0,
                      .seed = 1},
                     stream);
  LinearForward product{};
  product.y = y;
  product.x = x;
  product.weight = weight;
  product.N = product.I = product.O = size;
  backend.synchronize(stream);

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

}  // namespace

double measure_matrix_peak(Backend& backend, DType type) {
  constexpr int64_t kSmall = 1536;  // large enough to hide the edges, small enough for a slow CPU
  constexpr int64_t kLarge = 8192;  // what fills a GPU
  constexpr double kFast = 1e13;  // FLOP/s from which the small one tells of starting times rather than of the machine
  const double small = rate(backend, type, kSmall);
  const bool fits = backend.free_bytes() > 4 * kLarge * kLarge * size_of(type);
  return small > kFast && fits ? std::max(small, rate(backend, type, kLarge)) : small;
}

}  // namespace dither
