// What a config would take on so many ranks, by ZeRO stage: memory, bytes and, where inputs say how fast things are,
// time. Nothing is allocated and no device is touched.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "src/config/config.h"
#include "src/model/memory_plan.h"
#include "src/planning/step_time.h"

namespace dither {

struct StagePlan {
  int stage = 0;
  bool chosen = false;                             // the config's own
  MemoryPlan memory;                               // of the rank that takes most
  std::array<int64_t, kPurposes> sent_bytes = {};  // by a rank in a step, by Purpose
  int64_t calls = 0;                               // of collectives, in a step
  StepTime time;
  double tokens_per_second = 0;
  double efficiency = 0;  // of so many times one rank alone
};

struct ScalePlan {
  Config config;
  int ranks = 1;
  std::string device, links;
  Inputs inputs;
  int64_t parameters = 0, micro_batches = 0, rounds = 0;
  double one_rank_step_seconds = 0;  // of the whole step on one rank, predicted or measured
  std::vector<StagePlan> stages;     // 0 .. 3

  bool fits(const StagePlan& stage) const { return static_cast<double>(stage.memory.total()) <= inputs.memory_bytes; }
};

/// Ranks among which are all that differ in the memory they need: the others have lists of segments as long as one of
/// these. The table is padded for partition.ranks; which rank the partition is of does not matter.
std::vector<int> differing_ranks(const ParameterTable& table, const Partition& partition);

/// Throws Error for ranks that parallel.shard_group_size does not divide, and for inputs that cannot be.
ScalePlan plan_scale(const Config& config, int ranks, const InputChoice& choice);

}  // namespace dither
