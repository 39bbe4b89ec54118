#include "src/planning/plan.h"

#include <set>

#include "src/training/engine.h"

namespace dither {

namespace {

MemoryPlan largest_plan(const Config& config, int ranks) {
  const ParameterTable table(config, ranks);
  MemoryPlan largest;
  for (const int rank : differing_ranks(table, partition_of(config.parallel, 0, ranks))) {
    const MemoryPlan plan = Engine::plan(config, table, rank, ranks);
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

// The pieces of all ranks follow one upon the other, those of a shard together. A tensor begins or ends within few of
// them; between two such pieces (or shards) all have the same list. So of each run of equal ones the first is enough.
std::vector<int> differing_ranks(const ParameterTable& table, const Partition& partition) {
  const int64_t ranks = partition.ranks, copies = partition.copies();
  std::set<int64_t> pieces = {0};
  const auto add = [&pieces, ranks](int64_t piece) {
    if (piece >= 0 && piece < ranks) pieces.insert(piece);
  };
  for (const Parameter& p : table.parameters()) {
    const Extent& part = table.extent(p.bucket, p.plane);
    const int64_t piece = partition.piece_elements(part.elements), shard = partition.shard_elements(part.elements);
    for (const int64_t edge : {p.offset - part.offset, p.offset - part.offset + p.elements()}) {
      for (const int64_t near : {-1, 0, 1}) {
        add(edge / piece + near);
        add((edge / shard + near) * copies);
      }
    }
  }
  std::vector<int> list;
  for (const int64_t piece : pieces)
    list.push_back(static_cast<int>(piece % copies * partition.shards + piece / copies));
  return list;
}

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
