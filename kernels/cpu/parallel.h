// Loops over threads. Iterations write disjoint memory and never depend on which thread runs them, so results do not
// depend on the thread count.
#pragma once

#include <cstdint>

namespace dither {

/// body(i) for 0 <= i < count, handed out one by one as threads get free. body must not throw.
template <class Body>
void parallel_for(int threads, int64_t count, const Body& body) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (count > 1 && threads > 1)
  for (int64_t i = 0; i < count; ++i) body(i);
}

/// body(begin, end) over [0, count) cut into parts of `grain`; the cuts depend on count and grain alone.
template <class Body>
void parallel_ranges(int threads, int64_t count, int64_t grain, const Body& body) {
  parallel_for(threads, (count + grain - 1) / grain, [&](int64_t part) {
    const int64_t begin = part * grain;
    body(begin, begin + grain < count ? begin + grain : count);
  });
}

}  // namespace dither
