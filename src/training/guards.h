// What keeps a run from ruin: steps whose loss or gradient is not finite, or stands out, are not applied.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "kernels/step_scalars.h"
#include "src/checkpoint/manifest.h"  // TrainingState
#include "src/config/config.h"

namespace dither {

/// Mean and standard deviation of the last `window` values, in FP64.
class RollingStatistics {
 public:
  explicit RollingStatistics(int64_t window) : window_(window) {}
  void add(double value);
  int64_t count() const { return static_cast<int64_t>(values_.size()); }
  /// (value - mean) / deviation; 0 before kLeast values, or while they are all equal.
  double z_score(double value) const;
  /// Oldest first.
  std::vector<double> values() const { return {values_.begin(), values_.end()}; }
  /// The value whose z-score is z; Inf where z_score() would be 0 for all.
  double limit(double z) const;

 private:
  static constexpr int64_t kLeast = 16;  // fewer say little about a deviation
  void moments(double& mean, double& deviation) const;
  int64_t window_;
  std::deque<double> values_;
};

/// What a step was, as the guard saw it.
struct GuardVerdict {
  bool skipped = false;
  std::string reason;  // "" | "loss not finite" | "gradient not finite" | "loss z-score" | "gradient z-score"
  double loss_z = 0, gradient_z = 0;
  int64_t skipped_in_a_row = 0;
};

class Guards {
 public:
  explicit Guards(const GuardConfig& config);

  /// Sets loss_limit and norm_limit of the step that begins: the backend decides by them, without the host.
  void set_limits(StepScalars& scalars) const;
  /// Takes in a finished step. Skipped steps do not enter the statistics.
  GuardVerdict judge(const StepScalars& scalars);
  /// Whether so many steps in a row were skipped that the run must end.
  bool must_stop() const { return skipped_in_a_row_ >= config_.stop_after_skips; }
  int64_t skipped_steps() const { return skipped_steps_; }

  /// Their part of a run's state. A window that has become smaller keeps the newest values.
  void save(TrainingState& state) const;
  void restore(const TrainingState& state);

 private:
  const GuardConfig config_;
  RollingStatistics losses_, norms_;
  int64_t skipped_in_a_row_ = 0;
  int64_t skipped_steps_ = 0;
};

}  // namespace dither
