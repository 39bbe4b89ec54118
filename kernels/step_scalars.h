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
  uint32_t micro_batch = 0;    // global index of the micro-batch within the step: the draw of gradient noise
  float loss_scale = 1;        // 1/N: targets that count in the whole global step
  double largest_norm = 0;     // gradient clip; 0 = no clipping
  double loss_limit = 0;       // a loss above it skips the update; Inf = never
  double norm_limit = 0;       // the same for the gradient norm

  // Written by the step itself.
  ExactSum loss_sum;         // sum of target losses of the step (leaf: one sequence)
  ExactSum squared_norm;     // of the gradient (leaf: 1,024 elements)
  double loss = 0;           // mean loss
  double gradient_norm = 0;  // before clipping
  float clip_factor = 1;
  int32_t apply = 1;  // 0: skip this update
};

}  // namespace dither
