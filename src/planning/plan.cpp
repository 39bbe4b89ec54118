#include "src/planning/plan.h"

#include "src/training/engine.h"

namespace dither {

namespace {

/// Ranks differ by their lists of segments alone, and those of one shard by what little their copies differ in.
MemoryPlan largest_plan(const Config& config, int ranks) {
  MemoryPlan largest;
  for (int rank = 0; rank < ranks; ++rank) {
    const MemoryPlan plan = Engine::plan(config, rank, ranks);
    if (plan.total() > largest.total()) largest = plan;
  }
  return largest;
}

/// Rank 0 computes in every round, and sends in each: none is slower.
StagePlan plan_stage(const Config& config, int stage, const ScalePlan& all, const Inputs& inputs,
                     const ComputeScale& scale) {
  Config staged = config;
  staged.parallel.zero_stage = stage;
  StagePlan plan;
  plan.stage = stage;
  plan.chosen = stage == config.parallel.zero_stage;
  plan.memory = largest_plan(staged, all.ranks);
  const Rehearsal rehearsal = rehearse(staged, 0, all.ranks);
  for (int p = 0; p < kPurposes; ++p) {
    plan.sent_bytes[static_cast<size_t>(p)] = rehearsal.sent(static_cast<Purpose>(p));
  }
  plan.calls = rehearsal.traffic.calls;
  if (!inputs.has_times()) return plan;
  plan.time = step_time(rehearsal, partition_of(staged.parallel, 0, all.ranks), inputs, scale);
  plan.tokens_per_second = static_cast<double>(config.batch.tokens_per_step) / plan.time.step_seconds;
  plan.efficiency = all.one_rank_step_seconds / (plan.time.step_seconds * all.ranks);
  return plan;
}

}  // namespace

ScalePlan plan_scale(const Config& config, int ranks, const InputChoice& choice) {
  ScalePlan plan;
  plan.config = config;
  plan.ranks = ranks;
  plan.device = choice.device;
  plan.inputs = make_inputs(choice, config.precision.compute, config.parallel.threads, ranks);
  plan.parameters = ParameterTable(config).counted_elements();
  const ZeroOptions options = zero_options(config);
  plan.micro_batches = options.micro_batches;
  plan.rounds = options.rounds({.rank = 0, .ranks = ranks, .shards = 1});
  partition_of(config.parallel, 0, ranks);  // throws before anything takes time

  Config alone = config;
  alone.parallel.zero_stage = 0;
  const Rehearsal one_rank = rehearse(alone, 0, 1);
  const Inputs inputs = with_speeds(one_rank, plan.micro_batches, plan.inputs);
  const ComputeScale scale = compute_scale(one_rank, plan.micro_batches, inputs);
  plan.one_rank_step_seconds = step_time(one_rank, {.rank = 0, .ranks = 1, .shards = 1}, inputs, scale).step_seconds;
  for (int stage = 0; stage <= 3; ++stage) plan.stages.push_back(plan_stage(config, stage, plan, inputs, scale));
  return plan;
}

}  // namespace dither
