// The training loop's inside: one step, from samples to updated weights. Prints nothing, writes nothing.
#pragma once

#include <cstdint>
#include <functional>

#include "src/checkpoint/manifest.h"  // TrainingState
#include "src/data/loader.h"
#include "src/training/engine.h"
#include "src/training/guards.h"
#include "src/training/metrics.h"

namespace dither {

/// What a rank says of itself with a step. All ranks learn the sums, of the same step.
struct StepSigns {
  bool stop = false;           // all shall stop behind this step
  bool save = false;           // all shall save a checkpoint behind it
  bool shard_written = false;  // this rank's share of the checkpoint at hand is written, or failed
};

struct StepResult {
  StepRecord record;
  GuardVerdict verdict;
  bool stop = false;           // a rank has asked to stop
  bool save = false;           // a rank has asked to save
  int64_t shards_written = 0;  // ranks
};

class Trainer {
 public:
  /// Weights must be initialised. `shards` and `engine` must outlive the trainer.
  Trainer(Engine& engine, const TokenShards& shards);

  /// The next step, with everything measured that is due at it. `signs` is asked for as late as the step allows: after
  /// its last backward, before its sums.
  StepResult step(const std::function<StepSigns()>& signs = {});

  /// All that has to be kept beside the tensors, and how it is taken up again.
  TrainingState state() const;
  /// `there`: the config of the run that saved it. Where its sequences had another length, the place in the data is the
  /// sample that begins at the same share of an epoch, or the next one that does.
  void restore(const TrainingState& state, const Config& there);

  int64_t steps_done() const { return step_; }
  int64_t samples_consumed() const { return samples_; }   // by all ranks, as samples of today's sequence length
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
  int64_t samples_ = 0;  // the next step begins with this one
  int64_t tokens_ = 0;   // consumed by all ranks, also before a change of the sequence length
  int64_t computed_ = 0;
};

}  // namespace dither
