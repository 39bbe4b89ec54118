#include "src/optimizer/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace dither {

double learning_rate_at(const OptimizerConfig& optimizer, int64_t last_step, int64_t at_step) {
  const ScheduleConfig& s = optimizer.schedule;
  const int64_t steps = last_step - s.start_step, step = at_step - s.start_step;
  if (s.start_step > 0 && step <= 0) return 0;
  const double lr = optimizer.learning_rate, f = s.final_fraction;
  if (step <= s.warmup_steps) return lr * static_cast<double>(step) / static_cast<double>(s.warmup_steps);
  const double remaining = static_cast<double>(std::max<int64_t>(1, steps - s.warmup_steps));
  const double p = std::min(1.0, static_cast<double>(step - s.warmup_steps) / remaining);
  switch (s.kind) {
    case ScheduleKind::constant:
      return lr;
    case ScheduleKind::linear:
      return lr * (1 - (1 - f) * p);
    case ScheduleKind::cosine:
      return lr * (f + (1 - f) * 0.5 * (1 + std::cos(std::numbers::pi * p)));
    case ScheduleKind::wsd: {
      const double decay_steps = std::max(1.0, s.decay_fraction * static_cast<double>(steps));
      const double decayed = std::clamp((static_cast<double>(step - steps) + decay_steps) / decay_steps, 0.0, 1.0);
      return lr * (1 - (1 - f) * (s.decay_shape == DecayShape::linear ? decayed : std::sqrt(decayed)));
    }
  }
  return lr;
}

}  // namespace dither
