// Residual add and normalisation against FP64: forward by its definition, backward by finite differences of that.
// Bounds count roundings, u = 2^-24 each: a sum over C channels in sixteen lanes has C / 16 + 4 of them on its way.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"
#include "kernels/backend.h"
#include "tests/kernels/operation_test.h"
#include "tests/kernels/tensors.h"
#include "tests/kernels/test_backend.h"

namespace dither {
namespace {

constexpr double kU = 0x1p-24;
constexpr float kEpsilon = 1e-5f;
double rounding_of(DType type) { return type == DType::bf16 ? 0x1p-8 : kU; }  // half an ulp, relative
double sum_error(int C) { return (C / 16 + 8) * kU; }

struct Shape {
  int64_t N;
  int C;
  DType residual, activation, weight;
  bool layer;
};

struct Tensors {
  TestTensor x, r, weight, bias, h, y, mean, rstd;

  Tensors(const Shape& s, double centre, double spread)
      : x(normal_tensor(s.residual, s.N * s.C, 1, spread, centre)),
        r(normal_tensor(s.activation, s.N * s.C, 2, spread)),
        weight(normal_tensor(s.weight, s.C, 3, 0.3, 1)),
        bias(normal_tensor(s.weight, s.C, 4, 0.3)),
        h(s.residual, s.N * s.C),
        y(s.activation, s.N * s.C),
        mean(DType::fp32, s.N),
        rstd(DType::fp32, s.N) {}

  ResidualNormForward forward(const Shape& s, bool branch = true) {
    return {.h = branch ? View(h) : View(),
            .y = y,
            .mean = s.layer ? mean.fp32() : nullptr,
            .rstd = rstd.fp32(),
            .x = x,
            .r = branch ? ConstView(r) : ConstView(),
            .weight = weight,
            .bias = s.layer ? ConstView(bias) : ConstView(),
            .N = s.N,
            .C = s.C,
            .epsilon = kEpsilon};
  }
};

/// One row in FP64.
struct Row {
  std::vector<double> z;
  double mean = 0, rstd = 0;

  Row(const std::vector<double>& h, bool layer) {
    const auto C = static_cast<double>(h.size());
    for (const double value : h) mean += layer ? value / C : 0;
    double variance = 0;
    for (const double value : h) variance += (value - mean) * (value - mean) / C;
    rstd = 1 / std::sqrt(variance + static_cast<double>(kEpsilon));
    for (const double value : h) z.push_back((value - mean) * rstd);
  }
};

std::vector<double> row_of(const TestTensor& tensor, int64_t n, int C) {
  std::vector<double> row;
  for (int c = 0; c < C; ++c) row.push_back(tensor.get(n * C + c));
  return row;
}

void compare_forward(const Shape& s, Tensors& t, const TestTensor& h) {
  for (int64_t n = 0; n < s.N; ++n) {
    const std::vector<double> values = row_of(h, n, s.C);
    const Row row(values, s.layer);
    double size = 0;
    for (const double value : values) size += std::fabs(value) / s.C;
    const double mean_bound = sum_error(s.C) * size;
    CAPTURE(n, row.mean, row.rstd);
    if (s.layer) REQUIRE(std::fabs(t.mean.get(n) - row.mean) <= mean_bound);
    const double rstd_bound = row.rstd * sum_error(s.C) + row.rstd * std::pow(mean_bound * row.rstd, 2);
    REQUIRE(std::fabs(t.rstd.get(n) - row.rstd) <= rstd_bound);
    for (int c = 0; c < s.C; ++c) {
      const double w = t.weight.get(c), b = s.layer ? t.bias.get(c) : 0;
      const double z = row.z[static_cast<size_t>(c)], expected = w * z + b;
      const double bound = std::fabs(w) * (row.rstd * mean_bound + std::fabs(z) * (rstd_bound / row.rstd + 4 * kU)) +
                           std::fabs(expected) * (rounding_of(s.activation) + kU);
      const double found = t.y.get(n * s.C + c);
      if (!(std::fabs(found - expected) <= bound)) {
        CAPTURE(c, expected, found, bound);
        FAIL("outside the bound");
      }
    }
  }
}

// Catches: statistics of the unrounded sum, variance as E[h^2] - E[h]^2 (large means), epsilon outside the root, a
// division by C - 1, the mean of a half vector's zero lanes, gain or bias of another type read as this one.
OPERATION_TEST(residual_norm_forward, "agrees with FP64 over the rounded sum") {
  const auto [N, C] =
      GENERATE(std::pair<int64_t, int>{1, 8}, std::pair<int64_t, int>{65, 72}, std::pair<int64_t, int>{2, 776});
  const Shape s{.N = N,
                .C = C,
                .residual = GENERATE(DType::bf16, DType::fp32),
                .activation = GENERATE(DType::bf16, DType::fp32),
                .weight = GENERATE(DType::bf16, DType::fp32),
                .layer = GENERATE(false, true)};
  const double centre = GENERATE(0.0, 100.0);
  Tensors t(s, centre, centre == 0 ? 1 : 2);
  const bool branch = GENERATE(false, true);
  test_backend(2)->residual_norm_forward(t.forward(s, branch), {});
  for (int64_t i = 0; branch && i < s.N * s.C; ++i) {
    TestTensor sum(s.residual, 1);
    sum.set(0, static_cast<float>(t.x.get(i)) + static_cast<float>(t.r.get(i)));
    if (t.h.get(i) != sum.get(0)) FAIL("h is not the sum rounded once");
  }
  compare_forward(s, t, branch ? t.h : t.x);
  REQUIRE(t.y.guard_intact());
  REQUIRE(t.h.guard_intact());
  REQUIRE(t.rstd.guard_intact());
}

struct Gradients {
  TestTensor dx, d_weight, d_bias, workspace;

  Gradients(const Shape& s, DType gradient)
      : dx(s.residual, s.N * s.C),
        d_weight(gradient, s.C),
        d_bias(gradient, s.C),
        workspace(DType::fp32, workspace_bytes(s) / 4) {}

  static int64_t workspace_bytes(const Shape& s) {
    ResidualNormBackward op{};
    op.N = s.N;
    op.C = s.C;
    return op.workspace_bytes();
  }
};

ResidualNormBackward backward_of(const Shape& s, Tensors& t, Gradients& g, const TestTensor& dy, ConstView dh) {
  return {.dx = g.dx,
          .d_weight = g.d_weight,
          .d_bias = s.layer ? View(g.d_bias) : View(),
          .dh = dh,
          .dy = dy,
          .h = t.x,
          .mean = s.layer ? t.mean.fp32() : nullptr,
          .rstd = t.rstd.fp32(),
          .weight = t.weight,
          .N = s.N,
          .C = s.C,
          .workspace = g.workspace.fp32()};
}

/// dx of one row by central differences of sum_c dy * y + dh * h: in FP64 with step 1e-4 their own error is below 1e-7.
void compare_dx(const Shape& s, const Tensors& t, const Gradients& g, const TestTensor& dy, const TestTensor* dh,
                int64_t n) {
  std::vector<double> h = row_of(t.x, n, s.C);
  const Row row(h, s.layer);
  const auto loss = [&] {
    const Row moved(h, s.layer);
    double total = 0;
    for (int c = 0; c < s.C; ++c) total += dy.get(n * s.C + c) * t.weight.get(c) * moved.z[static_cast<size_t>(c)];
    return total;
  };
  double size = 0, size_z = 0;  // of g and of g z: what the two means are made of
  for (int c = 0; c < s.C; ++c) {
    const double gradient = std::fabs(dy.get(n * s.C + c) * t.weight.get(c));
    size += gradient / s.C;
    size_z += gradient * std::fabs(row.z[static_cast<size_t>(c)]) / s.C;
  }
  for (int c = 0; c < s.C; ++c) {
    const double step = 1e-4, place = h[static_cast<size_t>(c)], z = std::fabs(row.z[static_cast<size_t>(c)]);
    h[static_cast<size_t>(c)] = place + step;
    const double above = loss();
    h[static_cast<size_t>(c)] = place - step;
    const double below = loss();
    h[static_cast<size_t>(c)] = place;
    const double kept = dh != nullptr ? dh->get(n * s.C + c) : 0;
    const double expected = kept + (above - below) / (2 * step);
    const double gradient = std::fabs(dy.get(n * s.C + c) * t.weight.get(c));
    const double bound = row.rstd * (gradient + size + z * size_z) * 3 * sum_error(s.C) + 1e-7 +
                         std::fabs(expected) * (rounding_of(s.residual) + kU);
    if (!(std::fabs(g.dx.get(n * s.C + c) - expected) <= bound)) {
      CAPTURE(n, c, expected, g.dx.get(n * s.C + c), bound);
      FAIL("dx: outside the bound");
    }
  }
}

/// d_weight and d_bias are sums over n: at most kRows + blocks roundings of terms that have five.
void compare_sums(const Shape& s, const Tensors& t, const Gradients& g, const TestTensor& dy) {
  std::vector<double> d_weight(static_cast<size_t>(s.C)), d_bias = d_weight, size_w = d_weight, size_b = d_weight;
  for (int64_t n = 0; n < s.N; ++n) {
    const Row row(row_of(t.x, n, s.C), s.layer);
    for (size_t c = 0; c < d_weight.size(); ++c) {
      const double gradient = dy.get(n * s.C + static_cast<int64_t>(c));
      d_weight[c] += gradient * row.z[c];
      size_w[c] += std::fabs(gradient) * (std::fabs(row.z[c]) + 1);
      d_bias[c] += gradient;
      size_b[c] += std::fabs(gradient);
    }
  }
  const double roundings = (32.0 + static_cast<double>(s.N) / 32 + 8) * kU + sum_error(s.C);
  const double stored = rounding_of(g.d_weight.type());
  for (int c = 0; c < s.C; ++c) {
    const auto i = static_cast<size_t>(c);
    CAPTURE(c, d_weight[i], g.d_weight.get(c), d_bias[i]);
    REQUIRE(std::fabs(g.d_weight.get(c) - d_weight[i]) <= size_w[i] * roundings + std::fabs(d_weight[i]) * stored);
    if (s.layer)
      REQUIRE(std::fabs(g.d_bias.get(c) - d_bias[i]) <= size_b[i] * roundings + std::fabs(d_bias[i]) * stored);
  }
}

// Catches: either mean left out of dx, the gain applied after the means, dh overwritten, statistics of RMSNorm with a
// mean, a last block of rows cut off, gradients stored in the weight's type instead of their own.
OPERATION_TEST(residual_norm_backward, "agrees with finite differences of the FP64 forward") {
  const Shape s{.N = GENERATE(1, 33, 65),
                .C = GENERATE(8, 72),
                .residual = GENERATE(DType::bf16, DType::fp32),
                .activation = GENERATE(DType::bf16, DType::fp32),
                .weight = GENERATE(DType::bf16, DType::fp32),
                .layer = GENERATE(false, true)};
  const bool above = GENERATE(false, true);
  Tensors t(s, 0.5, 1);
  test_backend(1)->residual_norm_forward(t.forward(s, false), {});
  const TestTensor dy = normal_tensor(s.activation, s.N * s.C, 5), dh = normal_tensor(s.residual, s.N * s.C, 6);
  Gradients g(s, above ? DType::fp32 : DType::bf16);
  test_backend(2)->residual_norm_backward(backward_of(s, t, g, dy, above ? ConstView(dh) : ConstView()), {});
  for (int64_t n = 0; n < s.N; ++n) compare_dx(s, t, g, dy, above ? &dh : nullptr, n);
  compare_sums(s, t, g, dy);
  REQUIRE(g.dx.guard_intact());
  REQUIRE(g.d_weight.guard_intact());
  REQUIRE(g.d_bias.guard_intact());
  REQUIRE(g.workspace.guard_intact());
}

// Catches: a sum over n in another order than rows of a block, then blocks; atomics; a tree over the threads.
TEST_CASE("residual_norm_backward: the bias gradient adds blocks of 32 rows in rising order") {
  const Shape s{
      .N = 101, .C = 24, .residual = DType::fp32, .activation = DType::fp32, .weight = DType::fp32, .layer = true};
  Tensors t(s, 0, 1);
  test_backend(1)->residual_norm_forward(t.forward(s, false), {});
  const TestTensor dy = normal_tensor(s.activation, s.N * s.C, 7);
  Gradients g(s, DType::fp32);
  test_backend(GENERATE(1, 4))->residual_norm_backward(backward_of(s, t, g, dy, {}), {});
  for (int c = 0; c < s.C; ++c) {
    float total = 0;
    for (int64_t begin = 0; begin < s.N; begin += 32) {
      float block = 0;
      for (int64_t n = begin; n < std::min<int64_t>(begin + 32, s.N); ++n) block += dy.fp32()[n * s.C + c];
      total += block;
    }
    REQUIRE(g.d_bias.fp32()[c] == total);
  }
}

// Catches: a value read after its place was written, parts cut by the thread count.
TEST_CASE("residual norm gives the same bits in place and on 1 to 4 threads") {
  const Shape s{.N = 101,
                .C = 72,
                .residual = GENERATE(DType::bf16, DType::fp32),
                .activation = GENERATE(DType::bf16, DType::fp32),
                .weight = DType::bf16,
                .layer = GENERATE(false, true)};
  const TestTensor dy = normal_tensor(s.activation, s.N * s.C, 8), dh = normal_tensor(s.residual, s.N * s.C, 9);
  Tensors apart(s, 0, 1);
  test_backend(1)->residual_norm_forward(apart.forward(s), {});
  Gradients apart_gradients(s, DType::bf16);
  ResidualNormBackward op = backward_of(s, apart, apart_gradients, dy, dh);
  op.h = apart.h;
  test_backend(1)->residual_norm_backward(op, {});
  for (const int threads : {1, 2, 3, 4}) {
    Tensors t(s, 0, 1);
    ResidualNormForward forward = t.forward(s);
    forward.h = t.x;
    test_backend(threads)->residual_norm_forward(forward, {});
    REQUIRE(same_bits(t.x, apart.h));
    REQUIRE(same_bits(t.y, apart.y));
    REQUIRE(same_bits(t.rstd, apart.rstd));
    REQUIRE(same_bits(t.mean, apart.mean));
    Gradients g(s, DType::bf16);
    g.dx = TestTensor(dh);
    test_backend(threads)->residual_norm_backward(backward_of(s, t, g, dy, g.dx), {});
    REQUIRE(same_bits(g.dx, apart_gradients.dx));
    REQUIRE(same_bits(g.d_weight, apart_gradients.d_weight));
    if (s.layer) REQUIRE(same_bits(g.d_bias, apart_gradients.d_bias));
  }
}

// Catches: a demand that was forgotten or names another value than it tests.
TEST_CASE("residual norm refuses what it cannot compute and says why") {
  const Shape s{
      .N = 2, .C = 16, .residual = DType::fp32, .activation = DType::bf16, .weight = DType::bf16, .layer = true};
  Tensors t(s, 0, 1);
  const ResidualNormForward good = t.forward(s);
  REQUIRE_NOTHROW(good.check());
  auto op = good;
  op.C = 20;
  REQUIRE_THROWS_WITH(op.check(), "residual_norm_forward: C is 20, needs a multiple of 8");
  op = good, op.epsilon = 0;
  REQUIRE_THROWS_WITH(op.check(), "residual_norm_forward: epsilon is 0.000000, needs a real above 0");
  op = good, op.mean = nullptr;
  REQUIRE_THROWS_WITH(op.check(),
                      "residual_norm_forward: the number of bias tensors is 1, needs 0 without mean (RMSNorm)");
  op = good, op.bias = {};
  REQUIRE_THROWS_WITH(op.check(), "residual_norm_forward: bias is absent, needs a BF16 or FP32 tensor");
  op = good, op.r = t.x;
  REQUIRE_THROWS_WITH(op.check(), "residual_norm_forward: r is fp32, needs bf16");
  op = good, op.r = {};
  REQUIRE_THROWS_WITH(op.check(), "residual_norm_forward: the number of h tensors is 1, needs 0 without r (h is x)");
  op = good, op.y = t.r;
  REQUIRE_THROWS_WITH(
      op.check(), "residual_norm_forward: the distance in bytes from y to r is 0, needs tensors that do not overlap");
  Gradients g(s, DType::fp32);
  ResidualNormBackward backward = backward_of(s, t, g, t.y, t.h);
  REQUIRE_NOTHROW(backward.check());
  backward.d_bias = t.bias;
  REQUIRE_THROWS_WITH(backward.check(), "residual_norm_backward: d_bias is bf16, needs fp32");
  backward = backward_of(s, t, g, t.y, t.y);
  REQUIRE_THROWS_WITH(backward.check(), "residual_norm_backward: dh is bf16, needs fp32");
  backward = backward_of(s, t, g, t.y, t.h);
  backward.workspace = nullptr;
  REQUIRE_THROWS_WITH(backward.check(), "residual_norm_backward: workspace is 0, needs memory of workspace_bytes()");
}

}  // namespace
}  // namespace dither
