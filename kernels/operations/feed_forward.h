// The pointwise parts of a feed-forward layer. Everything in FP32, rounded once; x, y and their gradients share one
// type.
#pragma once

#include "kernels/view.h"

namespace dither {

/// y = gelu(x), the tanh form of GPT-2.
struct GeluForward {
  View y;       // [elements] out  may be x
  ConstView x;  // [elements]
  int64_t elements;
  void check() const;
  int64_t bytes() const;  // work.h
};

/// dx = dy * gelu'(x)
struct GeluBackward {
  View dx;       // [elements] out  may be dy
  ConstView dy;  // [elements]
  ConstView x;   // [elements]      input of forward
  int64_t elements;
  void check() const;
  int64_t bytes() const;  // work.h
};

/// y[n,f] = silu(gate[n,f]) * up[n,f]
struct SwigluForward {
  View y;             // [N,F]  out
  ConstView gate_up;  // [N,2F]      gate, then up
  int64_t N;
  int F;  // a multiple of 8
  void check() const;
  int64_t bytes() const;  // work.h
};

/// d_gate = dy * up * silu'(gate)     d_up = dy * silu(gate)
struct SwigluBackward {
  View d_gate_up;     // [N,2F] out  may be gate_up
  ConstView dy;       // [N,F]
  ConstView gate_up;  // [N,2F]
  int64_t N;
  int F;
  void check() const;
  int64_t bytes() const;  // work.h
};

}  // namespace dither
