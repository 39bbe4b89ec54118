// Median and quartiles.
#include "src/benchmark/timing.h"

#include <algorithm>

#include "base/error.h"

namespace dither {

Timing timing_of(std::vector<double> samples) {
  DITHER_ASSERT(!samples.empty());
  std::sort(samples.begin(), samples.end());
  // Between two samples the line that joins them: quantile q lies at place q * (count - 1).
  const auto quantile = [&](double q) {
    const double place = q * static_cast<double>(samples.size() - 1);
    const auto below = static_cast<size_t>(place);
    const size_t above = std::min(below + 1, samples.size() - 1);
    return samples[below] + (place - static_cast<double>(below)) * (samples[above] - samples[below]);
  };
  return {quantile(0.5), quantile(0.75) - quantile(0.25), static_cast<int64_t>(samples.size())};
}

}  // namespace dither
