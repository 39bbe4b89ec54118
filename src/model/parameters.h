// A run's weights and gradients as its loop and its optimizer see them: the door that the model uses, plus what happens
// between the passes. Plain memory (plain_parameters.h) is one way to hold them, ZeRO (src/parallel) another.
//
// A step:  for each round { begin_micro_batch; the model's passes } finish_beside; for each owned part { update it;
// updated(part) } finish_update. Nothing here waits for the host.
#pragma once

#include <cstdint>
#include <vector>

#include "src/model/parameter_access.h"

namespace dither {

/// A run of elements that this process updates: part of a plane of one bucket, or a whole plane.
struct OwnedPart {
  Plane plane;
  int64_t elements;               // gaps between tensors included
  std::vector<Segment> segments;  // offsets from the part's first element
  View weight, gradient;          // of that element; absent in a plan
};

/// Which micro-batch of a step comes next. Ranks compute micro-batches in rounds: one each, in the order of ranks.
struct Round {
  int64_t index = 0;     // of the round, from 0
  bool last = true;      // gradients are complete after it
  bool computes = true;  // this rank has a micro-batch; without one it calls Model::stand_by()
};

class Parameters : public ParameterAccess {
 public:
  virtual void begin_micro_batch(const Round& round) = 0;
  /// From now on the stream is behind all that was given beside it: after the last round the gradients of owned parts
  /// are complete, summed over all ranks. Before any collective on the stream itself: NCCL wants one at a time.
  virtual void finish_beside() = 0;
  /// What this process updates, in the order of storage. The same for as long as the parameters live.
  virtual const std::vector<OwnedPart>& owned() const = 0;
  /// The weights of owned()[part] are new.
  virtual void updated(int64_t part) = 0;
  /// All of them are: from now on forward passes see them. Also after initial weights were set.
  virtual void finish_update() = 0;
};

}  // namespace dither
