// The time of a rehearsed step (docs/scaling.md has the formulas).
//
//   operation    max(FLOP / products, bytes / memory, least time), scaled to what was measured where it was
//   collective   call + hops + bytes / bandwidth of the narrowest link of a ring over the nodes' ranks
//   step         two queues run through: each event begins when its stream is free, an order lets one wait for the
//   other
//
// Exposed communication is what the step takes longer than the same step with collectives that take no time.
#pragma once

#include "src/parallel/zero/partition.h"
#include "src/planning/inputs.h"
#include "src/planning/rehearsal.h"

namespace dither {

/// The ranks of a communicator, as the links see them.
struct Ring {
  int ranks;
  int nodes;
  int on_a_node() const { return (ranks + nodes - 1) / nodes; }
};
/// Of rank 0. Groups are taken to lie on as few nodes as they can.
Ring ring_of(Circle circle, const Partition& partition, int ranks_per_node);

double collective_seconds(const StepEvent& event, const Ring& ring, const Inputs& inputs);

/// The inputs with speeds where nothing but times of one rank says how fast a device is (a CPU): memory's follows from
/// the update, which moves bytes alone, that of products from what the other operations leave of a micro-batch. They
/// decide how a measured time is shared out among operations, not how long it is.
Inputs with_speeds(const Rehearsal& one_rank, int64_t micro_batches, Inputs inputs);

/// Seconds of compute that a rank's operations are multiplied with.
struct ComputeScale {
  double rounds = 1, update = 1;
};
/// What makes `one_rank`, the rehearsal of a world of one, take the time that was measured; 1 where nothing was.
ComputeScale compute_scale(const Rehearsal& one_rank, int64_t micro_batches, const Inputs& inputs);

struct StepTime {
  double step_seconds = 0;
  double compute_seconds = 0;        // the same step with collectives that take no time
  double communication_seconds = 0;  // of all collectives, one after the other
  double exposed_seconds() const { return step_seconds - compute_seconds; }
};
/// Of the rank that was rehearsed, in a world of partition.ranks.
StepTime step_time(const Rehearsal& rehearsal, const Partition& partition, const Inputs& inputs,
                   const ComputeScale& scale);

}  // namespace dither
