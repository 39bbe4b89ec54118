// The ceilings: a copy of a large buffer, and the matrix peak of src/training/matrix_peak.h.
#include "src/benchmark/ceilings.h"

#include <algorithm>

#include "src/training/matrix_peak.h"

namespace dither {

namespace {

double measure_copy(Backend& backend, int64_t memory_bytes) {
  constexpr int kRuns = 12;
  const int64_t elements = memory_bytes / (2 * size_of(DType::fp32));  // read, and as many written
  const Stream stream = backend.stream();
  void* memory = backend.allocate(2 * elements * size_of(DType::fp32));
  const View from{memory, DType::fp32}, to = from.at(elements);
  fill_with_random(backend, from, elements, 0, 1);
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    const double seconds = seconds_of([&] {
      backend.copy(to, from, elements, stream);
      backend.synchronize(stream);
    });
    best = std::max(best, static_cast<double>(2 * elements * size_of(DType::fp32)) / seconds);
  }
  backend.free(memory);
  return best;
}

}  // namespace

double Ceilings::floor_seconds(int64_t bytes, double flop) const {
  return std::max(static_cast<double>(bytes) / copy_bytes_per_second, flop / product_flop_per_second);
}

bool Ceilings::bound_by_product(int64_t bytes, double flop) const {
  return flop / product_flop_per_second > static_cast<double>(bytes) / copy_bytes_per_second;
}

Ceilings measure_ceilings(Backend& backend, DType compute, const Effort& effort) {
  return {measure_copy(backend, effort.memory_bytes), measure_matrix_peak(backend, compute)};
}

void fill_with_random(Backend& backend, View to, int64_t elements, double mean, double deviation) {
  if (to.type == DType::int16 || to.type == DType::none) return;
  constexpr int64_t kDrawn = int64_t{1} << 20;
  const Stream stream = backend.stream();
  int64_t done = std::min(elements, kDrawn);
  backend.initialise({.weight = to,
                      .extra = {},
                      .strategy = to.type == DType::fp32 ? Strategy::fp32 : Strategy::bf16,
                      .count = done,
                      .mean = mean,
                      .std = deviation,
                      .tensor = 0,
                      .seed = 1},
                     stream);
  for (; done < elements; done += std::min(done, elements - done)) {
    backend.copy(to.at(done), to, std::min(done, elements - done), stream);
  }
  backend.synchronize(stream);
}

}  // namespace dither
