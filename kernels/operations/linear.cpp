// What the three products of a linear layer demand, on every backend.
#include "kernels/operations/linear.h"

#include "kernels/operations/demand.h"

namespace dither {

namespace {

void demand_sizes(const char* op, int64_t N, int64_t I, int64_t O) {
  demand(N >= 1, op, "N", N, "at least 1");
  demand(I >= 8 && I % 8 == 0, op, "I", I, "a multiple of 8");
  demand(O >= 8 && O % 8 == 0, op, "O", O, "a multiple of 8");
}

}  // namespace

void LinearForward::check() const {
  const char* op = "linear_forward";
  demand_sizes(op, N, I, O);
  demand_float(op, "x", x);
  demand_type(op, "weight", weight, x.type);
  demand_type(op, "y", y, x.type);
  if (bias) demand_type(op, "bias", bias, x.type);
  if (epilogue == Epilogue::gelu) {
    demand_type(op, "pre_activation", pre_activation, x.type);
  } else if (pre_activation) {
    throw Error(std::string(op) + ": pre_activation is present, needs Epilogue::gelu or no tensor");
  }
  demand_apart(op, "the distance in bytes from y to x", y, N * O, x, N * I);
  demand_apart(op, "the distance in bytes from y to weight", y, N * O, weight, O * I);
  demand_apart(op, "the distance in bytes from pre_activation to x", pre_activation, N * O, x, N * I);
  demand_apart(op, "the distance in bytes from y to pre_activation", y, N * O, pre_activation, N * O);
}

void LinearInputGradient::check() const {
  const char* op = "linear_input_gradient";
  demand_sizes(op, N, I, O);
  demand_float(op, "dy", dy);
  demand_type(op, "weight", weight, dy.type);
  demand_type(op, "dx", dx, dy.type);
  demand_apart(op, "the distance in bytes from dx to dy", dx, N * I, dy, N * O);
  demand_apart(op, "the distance in bytes from dx to weight", dx, N * I, weight, O * I);
}

void LinearWeightGradient::check() const {
  const char* op = "linear_weight_gradient";
  demand_sizes(op, N, I, O);
  demand_float(op, "dy", dy);
  demand_type(op, "x", x, dy.type);
  demand_float(op, "d_weight", d_weight);
  if (accumulate) demand_type(op, "d_weight to accumulate in", d_weight, DType::fp32);
  if (d_bias) {
    demand_type(op, "d_bias", d_bias, d_weight.type);
    demand_float(op, "workspace", ConstView(workspace, DType::fp32));
  }
  demand_apart(op, "the distance in bytes from d_weight to dy", d_weight, O * I, dy, N * O);
  demand_apart(op, "the distance in bytes from d_weight to x", d_weight, O * I, x, N * I);
}

}  // namespace dither
