// The training loop's inside: one step, from samples to updated weights. Prints nothing, writes nothing.
#pragma once

#include <cstdint>

#include "src/data/loader.h"
#include "src/training/engine.h"
#include "src/training/guards.h"
#include "src/training/metrics.h"

namespace dither {

struct StepResult {
  StepRecord record;
  GuardVerdict verdict;
  bool stop = false;  // a rank has asked to stop
};

class Trainer {
 public:
  /// Weights must be initialised. `shards` and `engine` must outlive the trainer.
  Trainer(Engine& engine, const TokenShards& shards);

  /// The next step, with everything measured that is due at it. `stop`: this rank asks all to stop behind it.
  StepResult step(bool stop = false);

  int64_t steps_done() const { return step_; }
  int64_t samples_consumed() const { return samples_; }   // by all ranks
  int64_t samples_computed() const { return computed_; }  // by this one
  bool must_stop() const { return guards_.must_stop(); }
  int64_t skipped_steps() const { return guards_.skipped_steps(); }

 private:
  StepScalars scalars_of(int64_t step) const;
  void micro_batch(int64_t round);
  int64_t next_of(int64_t index) const;

  Engine& engine_;
  Loader loader_;
  Guards guards_;
  int64_t step_ = 0;     // done
  int64_t samples_ = 0;  // consumed
  int64_t computed_ = 0;
};

}  // namespace dither
