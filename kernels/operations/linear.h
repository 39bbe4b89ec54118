// A linear layer Y[n,o] = sum_i X[n,i] W[o,i] + b[o] and its three products. FP32 accumulation, one rounding at the
// end. x, y, their gradients and the weight share one type (BF16 or FP32); N is any number of tokens.
#pragma once

#include "kernels/view.h"

namespace dither {

enum class Epilogue : uint8_t { none, gelu };

struct LinearForward {
  View y;               // [N,O] out
  View pre_activation;  // [N,O] out  with Epilogue::gelu: what gelu was applied to, kept for backward; else absent
  ConstView x;          // [N,I]
  ConstView weight;     // [O,I]
  ConstView bias;       // [O]        the type of weight; absent: none
  int64_t N, I, O;      // I and O multiples of 8
  Epilogue epilogue;    // gelu: y = RN(gelu(pre_activation)); CUDA may apply it to the sum before that is rounded
  void check() const;
  int64_t bytes() const;  // work.h
  double flop() const { return 2.0 * static_cast<double>(N) * static_cast<double>(I) * static_cast<double>(O); }
};

/// dx[n,i] = sum_o dy[n,o] W[o,i]
struct LinearInputGradient {
  View dx;           // [N,I] out
  ConstView dy;      // [N,O]
  ConstView weight;  // [O,I]
  int64_t N, I, O;
  void check() const;
  int64_t bytes() const;  // work.h
  double flop() const { return 2.0 * static_cast<double>(N) * static_cast<double>(I) * static_cast<double>(O); }
};

/// dW[o,i] = sum_n dy[n,o] x[n,i]     db[o] = sum_n dy[n,o], over blocks of kRows tokens first, then over blocks; where
/// CUDA's library forms it beside the product, in an order of its own
struct LinearWeightGradient {
  View d_weight;  // [O,I] out  BF16 or FP32, whatever the type of x
  View d_bias;    // [O]   out  the type of d_weight; absent: none
  ConstView dy;   // [N,O]
  ConstView x;    // [N,I]
  int64_t N, I, O;
  bool accumulate;  // d_weight and d_bias (FP32 only) keep what they hold and get the sums added: head chunks
  void* workspace;  // workspace_bytes(): FP32 [ceil(N/kRows),O] for the bias gradient
  int64_t workspace_bytes() const { return d_bias ? (N + kRows - 1) / kRows * O * 4 : 0; }
  void check() const;
  int64_t bytes() const;  // work.h
  double flop() const { return 2.0 * static_cast<double>(N) * static_cast<double>(I) * static_cast<double>(O); }
  static constexpr int64_t kRows = 64;
};

}  // namespace dither
