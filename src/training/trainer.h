// The training loop's inside: one step, from samples to updated weights. Prints nothing, writes nothing.
#pragma once

#include <cstdint>
#include <functional>

#include "src/data/loader.h"
#include "src/training/engine.h"
#include "src/training/guards.h"
#include "src/training/metrics.h"

namespace dither {

struct StepResult {
  StepRecord record;
  GuardVerdict verdict;
};

class Trainer {
 public:
  /// Weights must be initialised. `shards` and `engine` must outlive the trainer.
  Trainer(Engine& engine, const TokenShards& shards);

  /// The next step, with everything measured that is due at it.
  StepResult step();

  int64_t steps_done() const { return step_; }
  int64_t samples_consumed() const { return samples_; }
  bool must_stop() const { return guards_.must_stop(); }
  int64_t skipped_steps() const { return guards_.skipped_steps(); }

 private:
  StepScalars scalars_of(int64_t step) const;
  void micro_batch(int64_t index);

  /// What a step is made of: the same operations on the same memory each time, but for what lies in StepScalars.
  enum class Piece : uint8_t { first_micro_batch, later_micro_batch, update, measured_update };
  void repeat(Piece piece, const std::function<void()>& work);

  Engine& engine_;
  Loader loader_;
  Guards guards_;
  int64_t step_ = 0;     // done
  int64_t samples_ = 0;  // consumed
};

}  // namespace dither
