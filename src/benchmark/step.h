// Whole training steps of a config on random tokens: their time, and where it goes.
#pragma once

#include "src/benchmark/timed_backend.h"
#include "src/benchmark/timing.h"
#include "src/training/engine.h"

namespace dither {

struct StepFigures {
  Timing timing;             // of steps as training does them: forward, backward, clip, update
  double timed_seconds = 0;  // of one step in which each operation is waited for: the parts, and the waits between them
  Parts parts;               // of that step
  int64_t tokens = 0;
  double flop = 0;  // 6 a parameter and token, and attention's: Model::flop_per_token()

  double floor_seconds() const;  // of all parts
  double share_of_ceiling() const { return floor_seconds() / timing.seconds; }
  double tokens_per_second() const { return static_cast<double>(tokens) / timing.seconds; }
};

/// Steps until `seconds` have passed, at least three, after two that do not count; then one with its parts. `backend`
/// is the engine's. Draws the initial weights.
StepFigures measure_step(Engine& engine, TimedBackend& backend, const Ceilings& ceilings, double seconds);

}  // namespace dither
