// Residual add and normalisation: LayerNorm where `mean` is given, else RMSNorm.
//
//   h[n,c] = RN(x[n,c] + r[n,c])                         the residual stream, rounded once
//   rms:    s[n] = 1 / sqrt(mean_c(h^2) + eps)           y = RN(weight * h * s)
//   layer:  m[n] = mean_c(h), s[n] = 1 / sqrt(mean_c((h-m)^2) + eps)     y = RN(weight * (h-m) * s + bias)
// Statistics and products in FP32, over the ROUNDED h, because backward reads the same h.
#pragma once

#include "kernels/view.h"

namespace dither {

struct ResidualNormForward {
  View h;            // [N,C] out  the new residual stream, BF16 or FP32; may be x. Absent when r is absent: h = x
  View y;            // [N,C] out  activation, BF16 or FP32: input of the linear layer that follows
  float* mean;       // [N]   out  kept for backward; null: RMSNorm
  float* rstd;       // [N]   out  s, kept for backward
  ConstView x;       // [N,C]      the residual stream
  ConstView r;       // [N,C]      the branch that ends here, the type of y; absent before the first layer
  ConstView weight;  // [C]        gain, BF16 or FP32
  ConstView bias;    // [C]        the type of weight; present exactly for LayerNorm
  int64_t N;         // tokens
  int C;             // channels, a multiple of 8
  float epsilon;     // above 0
  void check() const;
  int64_t bytes() const;  // work.h
};

/// dx = RN(dh + J^T dy), J the normalisation's Jacobian at h; d_weight = sum_n dy * (h-m) * s; d_bias = sum_n dy.
/// The sums over n are taken over blocks of kRows rows first, then over blocks, both in rising order.
struct ResidualNormBackward {
  View dx;            // [N,C] out  gradient of x and, where r was given, of r; may be dh
  View d_weight;      // [C]   out  BF16 or FP32
  View d_bias;        // [C]   out  present exactly for LayerNorm
  ConstView dh;       // [N,C]      gradient of h from above, the type of dx; absent after the last norm: 0
  ConstView dy;       // [N,C]      the type of y
  ConstView h;        // [N,C]
  const float* mean;  // [N]        null: RMSNorm
  const float* rstd;  // [N]
  ConstView weight;   // [C]
  int64_t N;
  int C;
  void* workspace;  // workspace_bytes(): FP32 [ceil(N/kRows), 2, C]
  int64_t workspace_bytes() const { return (N + kRows - 1) / kRows * 2 * C * 4; }
  void check() const;
  int64_t bytes() const;  // work.h
  static constexpr int64_t kRows =
      32;  // rows of a first-stage sum: a function of nothing, so bits depend on N, C alone
};

}  // namespace dither
