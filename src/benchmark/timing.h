// Seconds of a piece of work, what many of them amount to, and how many to take.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

namespace dither {

template <class Work>
double seconds_of(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

struct Timing {
  double seconds = 0;                // the median
  double interquartile_seconds = 0;  // from the first quartile to the third: the spread
  int64_t samples = 0;
};

/// How much trouble to take.
struct Effort {
  double case_seconds = 0.25;  // of measuring each case, after five samples
  double step_seconds = 3;     // of measuring steps, after three of them
  int64_t memory_bytes =
      int64_t{512} << 20;  // what a copy, and the tensors of a case taken in turn, fill: no cache does
};
/// Shows that everything runs; caches flatter its figures.
constexpr Effort kQuick{.case_seconds = 0.002, .step_seconds = 0, .memory_bytes = int64_t{4} << 20};

/// Of at least one sample.
Timing timing_of(std::vector<double> samples);

}  // namespace dither
