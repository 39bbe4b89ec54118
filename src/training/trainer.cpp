#include "src/training/trainer.h"

#include <chrono>
#include <cmath>

#include "base/error.h"
#include "src/optimizer/schedule.h"

namespace dither {

Trainer::Trainer(Engine& engine, const TokenShards& shards)
    : engine_(engine), loader_(shards, loader_options(engine.config(), true)), guards_(engine.config().guards) {
  loader_.load(0);  // a bad token at the very beginning is heard before a run's folder is made
}

StepResult Trainer::step() {
  const auto begin = std::chrono::steady_clock::now();
  const Config& config = engine_.config();
  const int64_t every = config.logging.measure_every_steps;
  const int64_t step = step_ + 1;
  const bool measure = every > 0 && (step % every == 0 || step == 1);

  const StepScalars scalars = scalars_of(step);
  engine_.optimizer().begin_step(scalars, measure);
  for (int64_t i = 0; i < engine_.micro_batches(); ++i) micro_batch(i);
  repeat(measure ? Piece::measured_update : Piece::update, [&] {
    engine_.optimizer().clip();
    engine_.optimizer().step();
  });

  const StepScalars done = engine_.scalars();
  step_ = step;
  samples_ += engine_.samples_per_step();
  StepResult result;
  result.verdict = guards_.judge(done);
  StepRecord& r = result.record;
  r.step = step;
  r.tokens = samples_ * config.model.sequence_length;
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
  s.loss_scale = static_cast<float>(1.0 / static_cast<double>(targets));
  s.largest_norm = config.optimizer.gradient_clip;
  guards_.set_limits(s);
  return s;
}

void Trainer::micro_batch(int64_t index) {
  const int64_t B = engine_.config().batch.micro_batch_size;
  const int64_t first = samples_ + index * B;
  const Batch& batch = loader_.load(first);
  loader_.prefetch(first + B);
  engine_.set_micro_batch(static_cast<uint32_t>(index));
  engine_.parameters().begin_micro_batch(index);
  engine_.model().load(batch.tokens.data(), batch.targets.data(), B, engine_.config().model.sequence_length);
  repeat(index == 0 ? Piece::first_micro_batch : Piece::later_micro_batch, [&] {
    engine_.model().forward();
    engine_.model().backward();
  });
}

void Trainer::repeat(Piece piece, const std::function<void()>& work) {
  engine_.backend().repeat(static_cast<uint64_t>(piece), engine_.stream(), work);
}

}  // namespace dither
