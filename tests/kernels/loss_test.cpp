// Cross-entropy against FP64 and finite differences, and what must hold exactly: padding, masks, threads, texts.
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"
#include "kernels/backend.h"
#include "tests/kernels/operation_test.h"
#include "tests/kernels/tensors.h"
#include "tests/kernels/test_backend.h"

namespace dither {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

int64_t padded(int64_t V) { return (V + 63) / 64 * 64; }

/// Rows of logits and all that the operation takes and gives.
struct Case {
  TestTensor logits;  // [N,Vp]; padded columns NaN: whoever reads them shows it
  std::vector<int32_t> targets;
  int64_t N, V, Vp;
  StepScalars scalars{};
  std::vector<float> losses = std::vector<float>(static_cast<size_t>(N), -1.0f);

  Case(DType type, int64_t rows, int64_t tokens, double deviation)
      : logits(type, rows * padded(tokens)), N(rows), V(tokens), Vp(padded(tokens)) {
    const TestTensor values = normal_tensor(type, N * V, 11, deviation);
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t v = 0; v < V; ++v) logits.set(n * Vp + v, values.get(n * V + v));
      targets.push_back(static_cast<int32_t>(n * 7919 % V));
    }
    targets.back() = static_cast<int32_t>(V - 1);  // the last column, which no whole vector reaches
    scalars.loss_scale = 1.0f / 24;
  }

  CrossEntropy operation(bool gradient = true) {
    return {.logits = logits,
            .losses = losses.data(),
            .targets = targets.data(),
            .N = N,
            .V = V,
            .Vp = Vp,
            .gradient = gradient,
            .scalars = &scalars};
  }
  void run(bool gradient = true, int threads = 2) { test_backend(threads)->cross_entropy(operation(gradient), {}); }
};

struct Reference {
  double loss;
  std::vector<double> probability;
};

Reference fp64_row(const Case& c, int64_t n) {
  double maximum = -kInf, sum = 0;
  for (int64_t v = 0; v < c.V; ++v) maximum = std::max(maximum, c.logits.get(n * c.Vp + v));
  Reference row;
  for (int64_t v = 0; v < c.V; ++v) {
    row.probability.push_back(std::exp(c.logits.get(n * c.Vp + v) - maximum));
    sum += row.probability.back();
  }
  for (double& p : row.probability) p /= sum;
  row.loss = std::log(sum) + maximum - c.logits.get(n * c.Vp + c.targets[static_cast<size_t>(n)]);
  return row;
}

}  // namespace

// Catches: a sum over padded columns, a lost tail of a row, the natural logarithm taken for another, the target's
// column taken from the wrong row, a gradient without its -1 or its scale, a target written before its logit was read.
OPERATION_TEST(cross_entropy, "losses and gradients are those of FP64") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const auto V = GENERATE(int64_t{1}, int64_t{61}, int64_t{1000}, int64_t{50257});
  Case c(type, 5, V, 2.0);
  const Case before = c;
  c.run();
  // exp_fp32 is off by 2^-22, z - max by 2^-24 of at most 32, a leaf's FP32 sum by 68 additions of 2^-24 each: below
  // 2^-17 in S and in every probability; CUDA's approximate exponentials too (kernels/cuda/loss.cu, Error: 124 2^-24
  // for logits within 20 of the greatest). Then scale and store: 2^-22 in FP32, 2^-8 in BF16; 2^-126 where exp gives
  // up.
  const double relative = 0x1p-17, rounding = type == DType::bf16 ? 0x1.01p-8 : 0x1p-22;
  for (int64_t n = 0; n < c.N; ++n) {
    const Reference row = fp64_row(before, n);
    REQUIRE(std::fabs(c.losses[static_cast<size_t>(n)] - row.loss) <= relative + 0x1p-23 * row.loss);
    double excess = 0;
    for (int64_t v = 0; v < V; ++v) {
      const double p = row.probability[static_cast<size_t>(v)];
      const double expected = (p - (v == c.targets[static_cast<size_t>(n)] ? 1 : 0)) / 24;
      const double allowed = relative * p / 24 + rounding * std::fabs(expected) + 0x1p-126;
      excess = std::max(excess, std::fabs(c.logits.get(n * c.Vp + v) - expected) - allowed);
    }
    CAPTURE(V, n);
    REQUIRE(excess <= 0);
  }
  REQUIRE(c.logits.guard_intact());
}

// Catches: a gradient that is the derivative of something else than the loss returned. Noise of a loss is 2^-17, so of
// a quotient 2^-17 / h; the central difference itself is off by h^2 / 6 times a third derivative below 1/8.
OPERATION_TEST(cross_entropy, "the gradient is the derivative of the loss") {
  Case c(DType::fp32, 1, 61, 1.0);
  c.scalars.loss_scale = 1;
  const Case before = c;
  c.run();
  const double h = 1.0 / 16;
  for (int64_t v = 0; v < c.V; v += 4) {
    Case up = before, down = before;
    up.logits.set(v, up.logits.get(v) + h);
    down.logits.set(v, down.logits.get(v) - h);
    up.run(false);
    down.run(false);
    const double slope = (double{up.losses[0]} - double{down.losses[0]}) / (up.logits.get(v) - down.logits.get(v));
    REQUIRE(std::fabs(slope - c.logits.get(v)) <= 0x1p-17 / h + h * h / 48);
  }
}

// Catches: padding that is left as it was, or scaled (NaN * 0), a mask that zeroes the loss but not the gradient.
OPERATION_TEST(cross_entropy, "padded columns and ignored rows have gradients of exactly zero") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  Case c(type, 4, 1000, 2.0);
  c.targets[1] = kIgnoredTarget;
  c.logits.set(c.Vp + 5, std::nan(""));
  c.run();
  const TestTensor zero = filled_tensor(type, 1, 0);
  const auto is_zero = [&](int64_t i) {
    return std::memcmp(c.logits.at(i).data, ConstView(zero).data, static_cast<size_t>(size_of(type))) == 0;
  };
  int64_t wrong = 0;
  for (int64_t n = 0; n < c.N; ++n) {
    for (int64_t v = n == 1 ? 0 : c.V; v < c.Vp; ++v) wrong += !is_zero(n * c.Vp + v);
  }
  REQUIRE(wrong == 0);
  REQUIRE(c.losses[1] == 0);
  REQUIRE(c.losses[2] > 0);
}

// Catches: a gradient written in evaluation, another path for the loss there.
OPERATION_TEST(cross_entropy, "without gradient the logits stay and the losses are the same bits") {
  Case c(DType::bf16, 4, 1000, 2.0);
  Case with = c;
  const TestTensor before = c.logits;
  c.run(false);
  with.run(true);
  REQUIRE(same_bits(c.logits, before));
  REQUIRE(c.losses == with.losses);
}

// Catches: exp without its shift, a maximum started at 0, NaN that a maximum or the logarithm swallows.
OPERATION_TEST(cross_entropy, "huge logits overflow nothing and broken ones are seen") {
  Case c(DType::bf16, 7, 61, 0.0);
  const auto row = [&](int64_t n, double value) {
    for (int64_t v = 0; v < c.V; ++v) c.logits.set(n * c.Vp + v, value);
  };
  c.targets.assign(7, 3);
  row(0, 0x1p127);
  row(1, -0x1p127);
  row(2, 0);
  c.logits.set(2 * c.Vp + 9, 0x1p100);  // all of the mass elsewhere
  row(3, 0);
  c.logits.set(3 * c.Vp + 3, 0x1p100);  // all of it on the target
  row(4, 0);
  c.logits.set(4 * c.Vp + 60, std::nan(""));
  row(5, 0);
  c.logits.set(5 * c.Vp + 2, kInf);
  row(6, -kInf);
  c.run();
  const auto loss_of_equals = static_cast<float>(std::log(61.0));
  REQUIRE(std::fabs(c.losses[0] - loss_of_equals) < 1e-6);
  REQUIRE(std::fabs(c.losses[1] - loss_of_equals) < 1e-6);
  REQUIRE(c.losses[2] == 0x1p100f);
  REQUIRE(c.logits.get(2 * c.Vp + 3) == -to_float(round_nearest(c.scalars.loss_scale)));
  REQUIRE(c.losses[3] == 0);
  REQUIRE(c.logits.get(3 * c.Vp + 3) == 0);
  for (size_t n = 4; n < 7; ++n) REQUIRE(std::isnan(c.losses[n]));
}

// Catches: sums whose order follows the threads or the row's place.
OPERATION_TEST(cross_entropy, "the bits of a row depend on the row alone") {
  Case one(DType::bf16, 9, 50257, 2.0);
  Case several = one, alone = one;
  one.run(true, 1);
  several.run(true, 4);
  REQUIRE(one.losses == several.losses);
  REQUIRE(same_bits(one.logits, several.logits));

  CrossEntropy last = alone.operation();
  last.logits = alone.logits.at(8 * alone.Vp);
  last.targets += 8;
  last.N = 1;
  test_backend(1)->cross_entropy(last, {});
  REQUIRE(alone.losses[0] == one.losses[8]);
  REQUIRE(std::memcmp(alone.logits.at(8 * alone.Vp).data, one.logits.at(8 * one.Vp).data,
                      static_cast<size_t>(one.Vp * 2)) == 0);
}

OPERATION_TEST(cross_entropy, "what is not allowed is named") {
  Case c(DType::bf16, 2, 61, 1.0);
  const auto text = [&](auto change) -> std::string {
    CrossEntropy op = c.operation();
    change(op);
    try {
      op.check();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  REQUIRE(text([](CrossEntropy&) {}).empty());
  REQUIRE(text([](CrossEntropy& op) { op.N = 0; }) == "cross_entropy: N is 0, needs at least 1");
  REQUIRE(text([](CrossEntropy& op) { op.V = 0; }) == "cross_entropy: V is 0, needs at least 1");
  REQUIRE(text([](CrossEntropy& op) { op.V = 65; }) == "cross_entropy: Vp is 64, needs at least V (65)");
  REQUIRE(text([](CrossEntropy& op) { op.Vp = 100; }) == "cross_entropy: Vp is 100, needs a multiple of 64");
  REQUIRE(text([](CrossEntropy& op) { op.logits = {}; }) ==
          "cross_entropy: logits is absent, needs a BF16 or FP32 tensor");
}

// Catches: FP32 sums, one leaf over all sequences, a sum that forgets what it held.
OPERATION_TEST(sum_losses, "a leaf is the FP64 sum of one sequence, added to what was there") {
  const int64_t B = 3, T = 1001;
  const TestTensor losses = normal_tensor(DType::fp32, B * T, 5, 1.0, 4.0);
  ExactSum sum, expected;
  sum.add(0.5);
  expected.add(0.5);
  for (int64_t b = 0; b < B; ++b) {
    double leaf = 0;
    for (int64_t t = 0; t < T; ++t) leaf += losses.get(b * T + t);
    expected.add(leaf);
  }
  test_backend(2)->sum_losses({.sum = &sum, .losses = losses.fp32(), .B = B, .T = T}, {});
  REQUIRE(std::equal(sum.digit, sum.digit + 6, expected.digit));
  REQUIRE(sum.non_finite == 0);
}

OPERATION_TEST(sum_losses, "a NaN is counted and bad sizes are named") {
  ExactSum sum;
  const float losses[2] = {1.0f, std::nanf("")};
  test_backend(1)->sum_losses({.sum = &sum, .losses = losses, .B = 1, .T = 2}, {});
  REQUIRE(std::isnan(sum.value()));
  REQUIRE_THROWS_WITH((SumLosses{.sum = &sum, .losses = losses, .B = 0, .T = 2}.check()),
                      "sum_losses: B is 0, needs at least 1");
  REQUIRE_THROWS_WITH((SumLosses{.sum = &sum, .losses = losses, .B = 1, .T = 0}.check()),
                      "sum_losses: T is 0, needs at least 1");
}

}  // namespace dither
