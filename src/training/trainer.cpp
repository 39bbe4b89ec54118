#include "src/training/trainer.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>

#include "base/error.h"
#include "src/checkpoint/state_tensors.h"  // tokens_consumed()
#include "src/optimizer/schedule.h"

namespace dither {

Trainer::Trainer(Engine& engine, const TokenShards& shards)
    : engine_(engine), loader_(shards, loader_options(engine.config())), guards_(engine.config().guards) {
  loader_.load(0);  // a bad token at the very beginning is heard before a run's folder is made
}

StepResult Trainer::step(const std::function<StepSigns()>& signs) {
  const auto begin = std::chrono::steady_clock::now();
  const Config& config = engine_.config();
  const int64_t every = config.logging.measure_every_steps;
  const int64_t step = step_ + 1;
  const bool measure = every > 0 && (step % every == 0 || step == 1);

  const StepScalars scalars = scalars_of(step);
  engine_.begin_step(scalars, measure);
  for (int64_t round = 0; round < engine_.rounds(); ++round) {
    engine_.phase(fmt::format("step {}: round {} of {}", step, round + 1, engine_.rounds()));
    micro_batch(round);
  }
  engine_.phase(fmt::format("step {}: update", step));
  if (signs) {
    const StepSigns own = signs();
    engine_.set_signs(own.stop, own.save, own.shard_written);
  }
  engine_.update();

  const StepScalars done = engine_.scalars();
  step_ = step;
  samples_ += engine_.samples_per_step();
  tokens_ += engine_.samples_per_step() * config.model.sequence_length;
  StepResult result;
  result.verdict = guards_.judge(done);
  result.stop = done.stop_requests > 0;
  result.save = done.save_requests > 0;
  result.shards_written = done.shards_written;
  StepRecord& r = result.record;
  r.step = step;
  r.tokens = tokens_;
  r.loss = done.loss;
  r.gradient_norm = done.gradient_norm;
  r.clip_factor = done.clip_factor;
  r.learning_rate = scalars.learning_rate;
  r.skipped = result.verdict.skipped;
  r.measured = measure && !r.skipped;
  if (r.measured) r.measures = engine_.optimizer().measures();
  r.step_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  r.tokens_per_second = static_cast<double>(config.batch.tokens_per_step) / r.step_seconds;
  return result;
}

TrainingState Trainer::state() const {
  TrainingState state;
  state.step = step_;
  state.samples = samples_;
  state.tokens = tokens_;
  guards_.save(state);
  return state;
}

void Trainer::restore(const TrainingState& state, const Config& there) {
  const int64_t T = engine_.config().model.sequence_length, there_T = there.model.sequence_length;
  step_ = state.step;
  samples_ = T == there_T ? state.samples : (tokens_of(state.samples, there_T) + T - 1) / T;
  tokens_ = tokens_consumed(state, there);
  guards_.restore(state);
}

// A skipped step counts as one: t of the bias corrections, schedule and samples go on.
StepScalars Trainer::scalars_of(int64_t step) const {
  const Config& config = engine_.config();
  StepScalars s;
  s.learning_rate = static_cast<float>(learning_rate_at(config.optimizer, config.steps, step));
  s.bias1 = static_cast<float>(1 - std::pow(config.optimizer.betas[0], static_cast<double>(step)));
  s.bias2 = static_cast<float>(1 - std::pow(config.optimizer.betas[1], static_cast<double>(step)));
  s.step = static_cast<uint32_t>(step);
  const int64_t targets = loader_.count_targets(samples_, engine_.samples_per_step());
  if (targets == 0) {
    throw Error("step " + std::to_string(step) + ": no target of its " + std::to_string(engine_.samples_per_step()) +
                " samples counts: data.ignore_token hides all of them");
  }
  s.set_targets(targets);
  s.largest_norm = config.optimizer.gradient_clip;
  guards_.set_limits(s);
  return s;
}

void Trainer::micro_batch(int64_t round) {
  const int64_t B = engine_.config().batch.micro_batch_size;
  const int64_t index = engine_.begin_round(round);
  if (index >= 0) {
    const int64_t first = samples_ + index * B;
    const Batch& batch = loader_.load(first);
    loader_.prefetch(next_of(index));
    engine_.model().load(batch.tokens.data(), batch.targets.data(), B, engine_.config().model.sequence_length);
    computed_ += B;
  }
  engine_.run_round();
}

/// The first sample of this rank's micro-batch after the one with this index: in this step or the next.
int64_t Trainer::next_of(int64_t index) const {
  const int64_t B = engine_.config().batch.micro_batch_size;
  const Partition& p = engine_.partition();
  const bool here = index + p.ranks < engine_.micro_batches();
  return here ? samples_ + (index + p.ranks) * B : samples_ + engine_.samples_per_step() + p.rank * B;
}

}  // namespace dither
