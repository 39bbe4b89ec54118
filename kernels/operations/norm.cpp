// What residual add and normalisation demand, on every backend.
#include "kernels/operations/norm.h"

#include <string>

#include "kernels/operations/demand.h"

namespace dither {

namespace {

void demand_sizes(const char* op, int64_t N, int C) {
  demand(N >= 1, op, "N", N, "at least 1");
  demand(C >= 8 && C % 8 == 0, op, "C", C, "a multiple of 8");
}

/// The gain and what goes with it: mean, bias and its gradient exist exactly for LayerNorm.
void demand_kind(const char* op, const float* mean, const char* what, ConstView bias, ConstView weight) {
  if (mean != nullptr) return demand_type(op, what, bias, weight.type);
  demand(!bias, op, (std::string("the number of ") + what + " tensors").c_str(), 1, "0 without mean (RMSNorm)");
}

}  // namespace

void ResidualNormForward::check() const {
  const char* op = "residual_norm_forward";
  demand_sizes(op, N, C);
  demand_positive(op, "epsilon", epsilon);
  demand(rstd != nullptr, op, "rstd", 0, "memory for N values");
  demand_float(op, "x", x);
  demand_float(op, "y", y);
  demand_float(op, "weight", weight);
  demand_kind(op, mean, "bias", bias, weight);
  if (r) {
    demand_type(op, "r", r, y.type);
    demand_type(op, "h", h, x.type);
    demand_same_or_apart(op, "the distance in bytes from h to x", h, x, N * C);
    demand_apart(op, "the distance in bytes from h to r", h, N * C, r, N * C);
  } else {
    demand(!h, op, "the number of h tensors", 1, "0 without r (h is x)");
  }
  demand_apart(op, "the distance in bytes from y to x", y, N * C, x, N * C);
  demand_apart(op, "the distance in bytes from y to r", y, N * C, r, N * C);
  demand_apart(op, "the distance in bytes from y to h", y, N * C, h, N * C);
}

void ResidualNormBackward::check() const {
  const char* op = "residual_norm_backward";
  demand_sizes(op, N, C);
  demand(rstd != nullptr, op, "rstd", 0, "the N values that forward kept");
  demand(workspace != nullptr, op, "workspace", 0, "memory of workspace_bytes()");
  demand_float(op, "dy", dy);
  demand_float(op, "h", h);
  demand_float(op, "weight", weight);
  demand_type(op, "dx", dx, h.type);
  if (dh) demand_type(op, "dh", dh, h.type);
  demand_float(op, "d_weight", d_weight);
  demand_kind(op, mean, "d_bias", d_bias, d_weight);
  demand_same_or_apart(op, "the distance in bytes from dx to dh", dx, dh, N * C);
  demand_apart(op, "the distance in bytes from dx to dy", dx, N * C, dy, N * C);
  demand_apart(op, "the distance in bytes from dx to h", dx, N * C, h, N * C);
}

}  // namespace dither
