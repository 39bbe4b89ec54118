// What varies from step to step, in backend memory: the optimizer and every kernel that draws random bits reads it
// here, so that a step needs no synchronisation with the host and can be recorded once and replayed.
#pragma once

#include <cstdint>

#include "kernels/numerics/exact_sum.h"

namespace dither {

/// Written by the host before the step, but for the last block, which the backend writes during the step.
struct StepScalars {
  float learning_rate = 0;
  float bias1 = 1, bias2 = 1;  // 1 - beta^t of both moments; t counts applied and skipped steps alike, from 1
  uint32_t step = 0;           // the optimizer step of random draws, from 1
  // Draws of gradient noise. Ranks compute micro-batches in rounds: rank r of W has the global index round + r.
  uint32_t micro_batch = 0;    // global index, within the step, of this rank's micro-batch
  uint32_t round = 0;          // that of the first one whose gradient this rank's sums add in this round
  uint32_t micro_batches = 1;  // of the whole step, over all ranks: the draw behind all of theirs
  float loss_scale = 1;        // 1/N rounded, of gradients
  int64_t targets = 1;         // N: targets that count in the whole global step
  double largest_norm = 0;     // gradient clip; 0 = no clipping
  double loss_limit = 0;       // a loss above it skips the update; Inf = never
  double norm_limit = 0;       // the same for the gradient norm

  // Written by the step itself.
  ExactSum loss_sum;  // sum of target losses of the step (leaf: one sequence)
  // What ranks have to say of themselves; beside loss_sum, with which they are summed over ranks.
  int64_t stop_requests = 0;   // got a signal to stop
  int64_t save_requests = 0;   // want a checkpoint behind this step
  int64_t shards_written = 0;  // have written their share of the checkpoint at hand, or failed to
  ExactSum squared_norm;       // of the gradient (leaf: 1,024 elements)
  double loss = 0;             // mean loss
  double gradient_norm = 0;    // before clipping
  float clip_factor = 1;
  int32_t apply = 1;  // 0: skip this update

  /// N targets count: of `targets` the loss is a mean in FP64, of `loss_scale` gradients are multiples.
  void set_targets(int64_t N) {
    targets = N;
    loss_scale = static_cast<float>(1.0 / static_cast<double>(N));
  }
};

}  // namespace dither
