// Residual add and normalisation: the CUDA kernels, run on the host in every order of their threads, against the CPU.
//
// Sums over channels have another order there, so they are compared twice: on integers, where every partial sum is
// exact and the bits must be the CPU's, and on normal deviates within the roundings counted below.
#include <cmath>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/kernels.h"
#include "tests/catch.h"
#include "tests/cuda_host/execution.h"
#include "tests/kernels/tensors.h"

namespace dither {
namespace {

constexpr double kU = 0x1p-24;
double rounding_of(DType type) { return type == DType::bf16 ? 0x1p-8 : kU; }  // half an ulp, relative
/// A term of a sum over C channels is rounded at most C / 16 + 8 times on the CPU (sixteen lanes), C / 256 + 12 times
/// here (256 places, the tree over eights, the butterfly, the division); both err.
double sum_difference(int C) { return (C / 16 + 8 + C / 256 + 12) * kU; }

struct Shape {
  int64_t N;
  int C;
};
constexpr Shape kShapes[] = {{1, 8}, {3, 24}, {33, 64}, {65, 136}, {5, 768}, {2, 1032}, {1, 4104}};
constexpr Shape kFewShapes[] = {{65, 136}, {9, 776}, {3, 4104}};

struct Types {
  DType residual, activation, weight;
};
std::vector<Types> all_types() {
  std::vector<Types> types;
  for (const DType r : {DType::bf16, DType::fp32}) {
    for (const DType a : {DType::bf16, DType::fp32}) {
      for (const DType w : {DType::bf16, DType::fp32}) types.push_back({r, a, w});
    }
  }
  return types;
}

/// Integers whose rows add up to C * centre: the second half of a row mirrors the first around it.
TestTensor balanced_rows(DType type, const Shape& s, uint64_t seed, int centre) {
  TestTensor x = integer_tensor(type, s.N * s.C, seed, 4);
  for (int64_t n = 0; n < s.N; ++n) {
    for (int64_t c = 0; c < s.C / 2; ++c) {
      const double value = x.get(n * s.C + c);
      x.set(n * s.C + c, centre + value);
      x.set(n * s.C + s.C - 1 - c, centre - value);
    }
  }
  return x;
}

/// What forward writes, all of it poisoned at first.
struct Outputs {
  TestTensor h, y, mean, rstd;
  Outputs(const Shape& s, const Types& t)
      : h(t.residual, s.N * s.C), y(t.activation, s.N * s.C), mean(DType::fp32, s.N), rstd(DType::fp32, s.N) {}
  bool guards_intact() const {
    return h.guard_intact() && y.guard_intact() && mean.guard_intact() && rstd.guard_intact();
  }
};
bool same_bits(const Outputs& a, const Outputs& b) {
  return same_bits(a.h, b.h) && same_bits(a.y, b.y) && same_bits(a.mean, b.mean) && same_bits(a.rstd, b.rstd);
}

struct Inputs {
  TestTensor x, r, weight, bias;
};

ResidualNormForward forward_of(const Shape& s, Outputs& out, const Inputs& in, bool layer, bool branch) {
  return {.h = branch ? View(out.h) : View(),
          .y = out.y,
          .mean = layer ? out.mean.fp32() : nullptr,
          .rstd = out.rstd.fp32(),
          .x = in.x,
          .r = branch ? ConstView(in.r) : ConstView(),
          .weight = in.weight,
          .bias = layer ? ConstView(in.bias) : ConstView(),
          .N = s.N,
          .C = s.C,
          .epsilon = 1e-5f};
}

/// What backward writes, all of it poisoned at first.
struct Gradients {
  TestTensor dx, d_weight, d_bias, workspace;
  Gradients(const Shape& s, const Types& t, DType gradient)
      : dx(t.residual, s.N * s.C),
        d_weight(gradient, s.C),
        d_bias(gradient, s.C),
        workspace(DType::fp32,
                  (s.N + ResidualNormBackward::kRows - 1) / ResidualNormBackward::kRows * 2 * int64_t{s.C}) {}
  bool guards_intact() const {
    return dx.guard_intact() && d_weight.guard_intact() && d_bias.guard_intact() && workspace.guard_intact();
  }
};
bool same_bits(const Gradients& a, const Gradients& b) {
  return same_bits(a.dx, b.dx) && same_bits(a.d_weight, b.d_weight) && same_bits(a.d_bias, b.d_bias);
}

struct Upstream {
  TestTensor h, dy, dh, weight, mean, rstd;
};

ResidualNormBackward backward_of(const Shape& s, Gradients& g, const Upstream& in, bool layer, bool above) {
  ResidualNormBackward op{.dx = g.dx,
                          .d_weight = g.d_weight,
                          .d_bias = layer ? View(g.d_bias) : View(),
                          .dh = above ? ConstView(in.dh) : ConstView(),
                          .dy = in.dy,
                          .h = in.h,
                          .mean = layer ? in.mean.fp32() : nullptr,
                          .rstd = in.rstd.fp32(),
                          .weight = in.weight,
                          .N = s.N,
                          .C = s.C,
                          .workspace = g.workspace.fp32()};
  REQUIRE(op.workspace_bytes() == g.workspace.bytes());
  return op;
}

}  // namespace

// Catches: a channel or a row left out or added twice, a shuffle that lanes miss, a tail of 8, 24, 136, 1032 or 4104
// channels, the mean of another row, E[h^2] - m^2, gain, bias or branch of another type read as this one.
TEST_CASE("residual norm, forward: on integers the bits of the CPU") {
  for (const Shape& s : kShapes) {
    for (const Types& t : all_types()) {
      const Inputs in{balanced_rows(t.residual, s, 1, 3), balanced_rows(t.activation, s, 2, -1),
                      normal_tensor(t.weight, s.C, 3, 0.3, 1), normal_tensor(t.weight, s.C, 4)};
      for (const bool layer : {false, true}) {
        for (const bool branch : {false, true}) {
          Outputs expected(s, t);
          make_cpu_backend(2)->residual_norm_forward(forward_of(s, expected, in, layer, branch), {});
          for (const cuda_host::Order order : cuda_host::kOrders) {
            cuda_host::set_order(order);
            Outputs found(s, t);
            cuda::residual_norm_forward(forward_of(s, found, in, layer, branch), {});
            CAPTURE(s.N, s.C, t.residual, t.activation, t.weight, layer, branch, order.kind);
            REQUIRE(same_bits(found, expected));
            REQUIRE(found.guards_intact());
          }
        }
      }
    }
  }
}

// Catches: statistics of the unrounded sum, h rounded twice, a reduction whose order is the threads', epsilon outside
// the root. A row's mean is 50 spreads: variance from squares of the whole would be wrong in its first digits.
TEST_CASE("residual norm, forward: on normal deviates h has the CPU's bits, the rest is within the roundings") {
  for (const Shape& s : kFewShapes) {
    for (const Types& t : {Types{DType::bf16, DType::bf16, DType::bf16}, Types{DType::fp32, DType::bf16, DType::fp32},
                           Types{DType::fp32, DType::fp32, DType::fp32}}) {
      for (const bool layer : {false, true}) {
        const Inputs in{normal_tensor(t.residual, s.N * s.C, 1, 2, layer ? 100 : 0),
                        normal_tensor(t.activation, s.N * s.C, 2), normal_tensor(t.weight, s.C, 3, 0.3, 1),
                        normal_tensor(t.weight, s.C, 4)};
        Outputs expected(s, t), first(s, t);
        make_cpu_backend(2)->residual_norm_forward(forward_of(s, expected, in, layer, true), {});
        cuda_host::set_order({});
        cuda::residual_norm_forward(forward_of(s, first, in, layer, true), {});
        CAPTURE(s.N, s.C, t.residual, layer);
        REQUIRE(same_bits(first.h, expected.h));
        for (int64_t n = 0; n < s.N; ++n) {
          double size = 0;
          for (int64_t c = 0; c < s.C; ++c) size += std::fabs(expected.h.get(n * s.C + c)) / s.C;
          const double mean_bound = layer ? sum_difference(s.C) * size : 0, rstd = expected.rstd.get(n);
          // The variance around a mean that is off by d is greater by d^2; its root halves a relative error.
          const double rstd_bound = rstd * (sum_difference(s.C) + std::pow(mean_bound * rstd, 2));
          if (layer) REQUIRE(std::fabs(first.mean.get(n) - expected.mean.get(n)) <= mean_bound);
          REQUIRE(std::fabs(first.rstd.get(n) - rstd) <= rstd_bound);
          for (int64_t c = 0; c < s.C; ++c) {
            const double w = std::fabs(in.weight.get(c)), y = expected.y.get(n * s.C + c);
            const double z = std::fabs((expected.h.get(n * s.C + c) - (layer ? expected.mean.get(n) : 0)) * rstd);
            const double bound = w * (rstd * mean_bound + z * (rstd_bound / rstd + 8 * kU)) +  // four roundings each
                                 2 * (rounding_of(t.activation) + kU) * std::fabs(y) * 1.01;
            if (!(std::fabs(first.y.get(n * s.C + c) - y) <= bound)) {
              CAPTURE(n, c, y, first.y.get(n * s.C + c), bound);
              FAIL("outside the bound");
            }
          }
        }
        for (const cuda_host::Order order : cuda_host::kOrders) {
          cuda_host::set_order(order);
          Outputs again(s, t);
          cuda::residual_norm_forward(forward_of(s, again, in, layer, true), {});
          REQUIRE(same_bits(again, first));
          Inputs in_place = {in.x, in.r, in.weight, in.bias};  // h is x
          ResidualNormForward op = forward_of(s, again, in_place, layer, true);
          op.h = in_place.x;
          cuda::residual_norm_forward(op, {});
          REQUIRE(same_bits(in_place.x, first.h));
          REQUIRE(same_bits(again, first));
        }
      }
    }
  }
}

// Catches: as forward's, and a mean over another count than C, mean(g) for RMSNorm, d_bias in the place of d_weight,
// rows of a block past N, blocks added twice. Statistics are integers and powers of two, so that z is exact.
TEST_CASE("residual norm, backward: on integers the bits of the CPU") {
  for (const Shape& s : kShapes) {
    for (const Types& t : all_types()) {
      Upstream in{integer_tensor(t.residual, s.N * s.C, 1, 8), integer_tensor(t.activation, s.N * s.C, 2, 4),
                  normal_tensor(t.residual, s.N * s.C, 3),     integer_tensor(t.weight, s.C, 4, 4),
                  integer_tensor(DType::fp32, s.N, 5, 2),      TestTensor(DType::fp32, s.N)};
      for (int64_t n = 0; n < s.N; ++n) in.rstd.set(n, std::ldexp(1, -static_cast<int>(n % 3)));
      for (const bool layer : {false, true}) {
        const bool above = (layer ? 1 : 0) == s.N % 2;
        const DType gradient = s.C % 16 == 0 ? DType::bf16 : DType::fp32;  // second stage alone
        Gradients expected(s, t, gradient);
        make_cpu_backend(2)->residual_norm_backward(backward_of(s, expected, in, layer, above), {});
        for (const cuda_host::Order order : cuda_host::kOrders) {
          cuda_host::set_order(order);
          Gradients found(s, t, gradient);
          cuda::residual_norm_backward(backward_of(s, found, in, layer, above), {});
          CAPTURE(s.N, s.C, t.residual, t.activation, t.weight, gradient, layer, order.kind);
          REQUIRE(same_bits(found, expected));
          REQUIRE(found.guards_intact());
        }
      }
    }
  }
}

// Catches: sums over n in another order than rows of a block, then blocks (1,093 rows: one full run of the second
// stage's loads and three more blocks), a block of other than 32 rows, dx read back after it was written.
TEST_CASE("residual norm, backward: on normal deviates the CPU's weight gradients, dx within the roundings") {
  std::vector<Shape> shapes(std::begin(kFewShapes), std::end(kFewShapes));
  shapes.push_back({1093, 8});
  for (const Shape& s : shapes) {
    for (const Types& t :
         {Types{DType::bf16, DType::bf16, DType::bf16}, Types{DType::fp32, DType::fp32, DType::fp32}}) {
      for (const bool layer : {false, true}) {
        const Inputs forward{normal_tensor(t.residual, s.N * s.C, 1, 1, 0.5), TestTensor(t.activation, 0),
                             normal_tensor(t.weight, s.C, 3, 0.3, 1), filled_tensor(t.weight, s.C, 0)};
        Outputs kept(s, t);
        make_cpu_backend(2)->residual_norm_forward(forward_of(s, kept, forward, layer, false), {});
        const Upstream in{forward.x,
                          normal_tensor(t.activation, s.N * s.C, 5),
                          normal_tensor(t.residual, s.N * s.C, 6),
                          forward.weight,
                          kept.mean,
                          kept.rstd};
        Gradients expected(s, t, DType::fp32), first(s, t, DType::fp32);
        make_cpu_backend(2)->residual_norm_backward(backward_of(s, expected, in, layer, true), {});
        cuda_host::set_order({});
        cuda::residual_norm_backward(backward_of(s, first, in, layer, true), {});
        CAPTURE(s.N, s.C, t.residual, layer);
        REQUIRE(same_bits(first.d_weight, expected.d_weight));
        REQUIRE(same_bits(first.d_bias, expected.d_bias));
        for (int64_t n = 0; n < s.N; ++n) {
          const double mean = layer ? in.mean.get(n) : 0, rstd = in.rstd.get(n);
          double size_g = 0, size_gz = 0;
          for (int64_t i = n * s.C; i < (n + 1) * s.C; ++i) {
            const double g = std::fabs(in.dy.get(i) * in.weight.get(i % s.C));
            size_g += g / s.C;
            size_gz += g * std::fabs((in.h.get(i) - mean) * rstd) / s.C;
          }
          for (int64_t i = n * s.C; i < (n + 1) * s.C; ++i) {
            const double g = std::fabs(in.dy.get(i) * in.weight.get(i % s.C));
            const double z = std::fabs((in.h.get(i) - mean) * rstd), means = size_g + z * size_gz;
            const double bound = rstd * (means * sum_difference(s.C) + 8 * kU * (g + means)) +  // four roundings each
                                 2 * (rounding_of(t.residual) + kU) * std::fabs(expected.dx.get(i)) * 1.01;
            if (!(std::fabs(first.dx.get(i) - expected.dx.get(i)) <= bound)) {
              CAPTURE(n, i, expected.dx.get(i), first.dx.get(i), bound);
              FAIL("outside the bound");
            }
          }
        }
        for (const cuda_host::Order order : cuda_host::kOrders) {
          cuda_host::set_order(order);
          Gradients again(s, t, DType::fp32);
          again.dx = TestTensor(in.dh);  // dx is dh
          ResidualNormBackward op = backward_of(s, again, in, layer, false);
          op.dh = again.dx;
          cuda::residual_norm_backward(op, {});
          REQUIRE(same_bits(again, first));
        }
      }
    }
  }
}

}  // namespace dither
