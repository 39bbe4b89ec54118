// Softmax cross-entropy over the true vocabulary, and the sum of its losses.
#pragma once

#include "kernels/step_scalars.h"
#include "kernels/view.h"

namespace dither {

constexpr int32_t kIgnoredTarget = -1;  // a target that does not count: loss 0, gradient 0

/// losses[n] = log sum_{v<V} exp(z[n,v]) - z[n,target]; in place z <- RN((softmax(z) - onehot(target)) * loss_scale).
/// FP32 from the stored logits; sums over v in a fixed order; the logarithm in FP64. Padded columns [V, Vp) count
/// nowhere and their gradient is exactly 0.
struct CrossEntropy {
  View logits;             // [N,Vp] in: z; out: its gradient if `gradient`, else untouched. BF16 or FP32
  float* losses;           // [N]    out
  const int32_t* targets;  // [N]         below V, or kIgnoredTarget
  int64_t N;
  int64_t V;   // tokens of the vocabulary
  int64_t Vp;  // row length: V padded to a multiple of 64
  bool gradient;
  const StepScalars* scalars;  // loss_scale = 1 / N of the global step
  void check() const;
  int64_t bytes() const;  // work.h
};

/// sum += the losses: a leaf is the FP64 sum of one sequence in rising t.
struct SumLosses {
  ExactSum* sum;        // in and out
  const float* losses;  // [B,T]
  int64_t B, T;
  void check() const;
  int64_t bytes() const;  // work.h
};

}  // namespace dither
