// What the pointwise operations of a feed-forward layer demand, on every backend.
#include "kernels/operations/feed_forward.h"

#include "kernels/operations/demand.h"

namespace dither {

void GeluForward::check() const {
  const char* op = "gelu_forward";
  demand(elements >= 1, op, "elements", elements, "at least 1");
  demand_float(op, "x", x);
  demand_type(op, "y", y, x.type);
  demand_same_or_apart(op, "the distance in bytes from y to x", y, x, elements);
}

void GeluBackward::check() const {
  const char* op = "gelu_backward";
  demand(elements >= 1, op, "elements", elements, "at least 1");
  demand_float(op, "x", x);
  demand_type(op, "dy", dy, x.type);
  demand_type(op, "dx", dx, x.type);
  demand_same_or_apart(op, "the distance in bytes from dx to dy", dx, dy, elements);
  demand_apart(op, "the distance in bytes from dx to x", dx, elements, x, elements);
}

void SwigluForward::check() const {
  const char* op = "swiglu_forward";
  demand(N >= 1, op, "N", N, "at least 1");
  demand(F >= 8 && F % 8 == 0, op, "F", F, "a multiple of 8");
  demand_float(op, "gate_up", gate_up);
  demand_type(op, "y", y, gate_up.type);
  demand_apart(op, "the distance in bytes from y to gate_up", y, N * F, gate_up, 2 * N * F);
}

void SwigluBackward::check() const {
  const char* op = "swiglu_backward";
  demand(N >= 1, op, "N", N, "at least 1");
  demand(F >= 8 && F % 8 == 0, op, "F", F, "a multiple of 8");
  demand_float(op, "gate_up", gate_up);
  demand_type(op, "dy", dy, gate_up.type);
  demand_type(op, "d_gate_up", d_gate_up, gate_up.type);
  demand_same_or_apart(op, "the distance in bytes from d_gate_up to gate_up", d_gate_up, gate_up, 2 * N * F);
  demand_apart(op, "the distance in bytes from d_gate_up to dy", d_gate_up, 2 * N * F, dy, N * F);
}

}  // namespace dither
