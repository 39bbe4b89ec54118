// One training step of a rank, rehearsed: Engine does all that it does in a run, on a backend that has no memory and
// computes nothing and among ranks that are not there. What comes out is the list of what was given to the two streams.
//
// So what travels when, and beside what, is decided here by the code that decides it in a run; nothing is told twice.
#pragma once

#include <cstdint>
#include <vector>

#include "src/config/config.h"
#include "src/parallel/communicator.h"  // Traffic

namespace dither {

enum class Collective : uint8_t { all_reduce, reduce_scatter, all_gather, all_to_all };
/// The communicators of RankGroups.
enum class Circle : uint8_t { world, group, copies };
/// What a collective is for. weights: gathered before they are used, or after their update.
enum class Purpose : uint8_t { gradients, weights, scalars };
constexpr int kPurposes = 3;

/// One thing given to a stream.
struct StepEvent {
  enum class Kind : uint8_t { operation, collective, order };
  Kind kind;
  uint8_t stream;  // 0: computation, 1: beside it; of an order: what goes on only when the other has come so far
  bool update;     // of the update, not of a round
  Collective collective = {};
  Circle circle = {};
  Purpose purpose = {};
  double flop = 0;    // of an operation: of its matrix products
  int64_t bytes = 0;  // of an operation: read and written; of a collective: the whole data, over its ranks
  int64_t sent = 0;   // of a collective: bytes that leave this rank, as Traffic counts them
};

/// Rounds between the third and the last one are all alike: of more than four, the third stands for them.
struct Rehearsal {
  std::vector<StepEvent> events;
  size_t alike_begin = 0, alike_end = 0;  // the events of that round, [begin, end) of `events`
  int64_t alike_rounds = 1;               // that they stand for

  /// How often the step has the event of this index.
  int64_t times(size_t event) const { return event >= alike_begin && event < alike_end ? alike_rounds : 1; }
  Traffic traffic;              // of the step, as the communicators counted it
  int64_t allocated_bytes = 0;  // by the engine

  int64_t sent(Purpose purpose) const;
};

/// The step of this rank that measures nothing (logging.measure_every_steps). `every_round`: also those that are alike
/// (tests). Throws Error where Engine would.
Rehearsal rehearse(const Config& config, int rank, int ranks, bool every_round = false);

}  // namespace dither
