// How long one case of the benchmark takes, beside what it must move and compute.
#pragma once

#include <string>

#include "src/benchmark/operations.h"
#include "src/benchmark/timed_backend.h"
#include "src/benchmark/timing.h"

namespace dither {

struct OperationFigures {
  std::string operation, shape;
  Timing timing;  // of one call
  int64_t bytes = 0;
  double flop = 0;
  double floor_seconds = 0;
  bool bound_by_product = false;  // else by the copy's bandwidth

  double share_of_ceiling() const { return floor_seconds / timing.seconds; }
};

/// Allocates the case's tensors, as often as `effort` asks for and memory allows, and frees them. A sample is as many
/// calls, one after the other, as take a millisecond, and one wait for the backend at their end.
OperationFigures measure(TimedBackend& backend, const Case& c, const Ceilings& ceilings, const Effort& effort);

}  // namespace dither
