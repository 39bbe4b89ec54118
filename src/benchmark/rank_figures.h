// How fast the ranks of a job are together: each collective on little data and on much, and whole steps with the time
// that their collectives took. `dither plan` predicts the second from the first and from one rank alone
// (docs/scaling.md).
#pragma once

#include <string>
#include <vector>

#include "src/benchmark/timing.h"
#include "src/training/engine.h"

namespace dither {

/// A collective on data of one size.
struct CollectiveFigures {
  std::string collective;
  int64_t bytes = 0;       // of the whole data
  int64_t sent_bytes = 0;  // by a rank, as Traffic counts
  Timing timing;
};

struct RankFigures {
  Config config;
  int ranks = 1;
  std::string transport, device;               // their descriptions
  std::vector<CollectiveFigures> collectives;  // none in a world of one
  Timing step;
  Timing communication;  // of the collectives of a step, on rank 0, waiting for others included; on CUDA unknown: 0
  double micro_batch_seconds = 0;  // of a round, without the update
  double update_seconds = 0;

  double tokens_per_second() const { return static_cast<double>(config.batch.tokens_per_step) / step.seconds; }
};

/// All ranks call it. Draws the initial weights. Steps until `effort.step_seconds` have passed on rank 0, at least
/// three, after two that do not count.
RankFigures measure_ranks(Engine& engine, const Effort& effort);

std::string text_of(const RankFigures& figures);
std::string json_of(const RankFigures& figures);

}  // namespace dither
