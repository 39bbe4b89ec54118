#include "src/training/guards.h"

#include <cmath>
#include <limits>

namespace dither {

void RollingStatistics::add(double value) {
  values_.push_back(value);
  if (count() > window_) values_.pop_front();
}

void RollingStatistics::moments(double& mean, double& deviation) const {
  mean = 0;
  for (const double v : values_) mean += v;
  mean /= static_cast<double>(values_.size());
  double squares = 0;
  for (const double v : values_) squares += (v - mean) * (v - mean);
  deviation = std::sqrt(squares / static_cast<double>(values_.size()));
}

double RollingStatistics::z_score(double value) const {
  if (count() < kLeast) return 0;
  double mean, deviation;
  moments(mean, deviation);
  return deviation > 0 ? (value - mean) / deviation : 0;
}

double RollingStatistics::limit(double z) const {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  if (count() < kLeast) return kNone;
  double mean, deviation;
  moments(mean, deviation);
  return deviation > 0 ? mean + z * deviation : kNone;
}

Guards::Guards(const GuardConfig& config) : config_(config), losses_(config.window), norms_(config.window) {}

void Guards::set_limits(StepScalars& scalars) const {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  scalars.loss_limit = config_.loss_z > 0 ? losses_.limit(config_.loss_z) : kNone;
  scalars.norm_limit = config_.gradient_z > 0 ? norms_.limit(config_.gradient_z) : kNone;
}

GuardVerdict Guards::judge(const StepScalars& scalars) {
  GuardVerdict verdict;
  verdict.loss_z = losses_.z_score(scalars.loss);
  verdict.gradient_z = norms_.z_score(scalars.gradient_norm);
  verdict.skipped = scalars.apply == 0;
  if (!verdict.skipped) {
    losses_.add(scalars.loss);
    norms_.add(scalars.gradient_norm);
    skipped_in_a_row_ = 0;
    return verdict;
  }
  ++skipped_steps_;
  verdict.skipped_in_a_row = ++skipped_in_a_row_;
  if (!std::isfinite(scalars.loss)) {
    verdict.reason = "loss not finite";
  } else if (!std::isfinite(scalars.gradient_norm)) {
    verdict.reason = "gradient not finite";
  } else {
    verdict.reason = scalars.loss > scalars.loss_limit ? "loss z-score" : "gradient z-score";
  }
  return verdict;
}

void Guards::save(TrainingState& state) const {
  state.losses = losses_.values();
  state.norms = norms_.values();
  state.skipped_steps = skipped_steps_;
  state.skipped_in_a_row = skipped_in_a_row_;
}

void Guards::restore(const TrainingState& state) {
  losses_ = RollingStatistics(config_.window);
  norms_ = RollingStatistics(config_.window);
  for (const double loss : state.losses) losses_.add(loss);
  for (const double norm : state.norms) norms_.add(norm);
  skipped_steps_ = state.skipped_steps;
  skipped_in_a_row_ = state.skipped_in_a_row;
}

}  // namespace dither
