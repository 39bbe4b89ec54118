#include "src/training/extension.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "src/optimizer/schedule.h"

namespace dither {

namespace {

constexpr double kLargestJump = 1.5;  // between two steps; schedules themselves change by less after some steps
constexpr double kMostWarmup = 1e6;   // steps

double rate(const Config& config, int64_t step) { return learning_rate_at(config.optimizer, config.steps, step); }

/// Steps of a new warm-up whose first rate is not above `before`.
int64_t gentle_warmup(const Config& config, double before) {
  const double steps = before > 0 ? std::ceil(config.optimizer.learning_rate / before) : 0;
  return std::max(config.optimizer.schedule.warmup_steps, static_cast<int64_t>(std::min(steps, kMostWarmup)));
}

std::string new_schedule(int64_t step, int64_t warmup) {
  return fmt::format("optimizer.schedule.start_step={} and optimizer.schedule.warmup_steps={}", step, warmup);
}

/// The last step before wsd's final decay.
int64_t last_stable_step(const Config& config) {
  const ScheduleConfig& s = config.optimizer.schedule;
  const auto steps = static_cast<double>(config.steps - s.start_step);
  return config.steps - static_cast<int64_t>(std::ceil(s.decay_fraction * steps));
}

}  // namespace

std::string learning_rate_jump(const Config& there, const Config& config, int64_t step) {
  if (step == 0 || step >= config.steps) return "";
  const double before = rate(there, std::min(step, there.steps)), after = rate(config, step + 1);
  const double expected = rate(there, std::min(step + 1, there.steps));
  const bool up = after > kLargestJump * expected;
  const bool down = after < expected / kLargestJump && config.optimizer.schedule.start_step != step;
  if (!up && !down) return "";
  const std::string factor = before > 0 && after > 0 ? fmt::format(" {} a factor of {:.2g}", up ? "by" : "down by",
                                                                   up ? after / before : before / after)
                                                     : "";
  std::string text = fmt::format("THE LEARNING RATE JUMPS{}: {:.3e} at step {}, {:.3e} at step {}", factor, before,
                                 step, after, step + 1);
  if (there.steps != config.steps) text += fmt::format(" (steps {} there, {} here)", there.steps, config.steps);
  text +=
      fmt::format("\n       cures: a new warm-up from here ({})", new_schedule(step, gentle_warmup(config, before)));
  if (there.optimizer.schedule.kind == ScheduleKind::wsd && step > last_stable_step(there)) {
    text += fmt::format(", or a checkpoint of step {} or earlier, before the decay", last_stable_step(there));
  }
  return text + ", or another optimizer.learning_rate";
}

std::string how_to_extend(const Config& config, const std::vector<CheckpointEntry>& checkpoints) {
  const ScheduleConfig& schedule = config.optimizer.schedule;
  const std::string last = checkpoints.back().path;
  if (schedule.kind == ScheduleKind::constant) {
    return fmt::format("to train on: a larger steps and checkpoint.resume={}", last);
  }
  const int64_t warmup = gentle_warmup(config, rate(config, config.steps));
  std::string text = fmt::format("to train on: a larger steps, checkpoint.resume={}, {} (a new warm-up)", last,
                                 new_schedule(config.steps, warmup));
  if (schedule.kind != ScheduleKind::wsd) return text;
  const int64_t stable = last_stable_step(config);
  std::string branch;
  for (const CheckpointEntry& entry : checkpoints) {
    if (entry.step <= stable) branch = entry.path;
  }
  return text + (branch.empty() ? fmt::format("; no checkpoint from before the decay (step {}) is left", stable)
                                : fmt::format("; or from before the decay: a larger steps, another name and "
                                              "checkpoint.resume={}",
                                              branch));
}

}  // namespace dither
