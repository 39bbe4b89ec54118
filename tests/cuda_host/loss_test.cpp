// Cross-entropy and the sum of losses on the host execution against the CPU. The two compute the
// exponentials differently and add them in different orders: where these are exact, the bits agree; elsewhere the bound
// counts the roundings.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/cuda/kernels.h"
#include "tests/catch.h"
#include "tests/cuda_host/execution.h"
#include "tests/kernels/tensors.h"

namespace dither {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kU = 0x1p-24;

int64_t padded(int64_t V) { return (V + 63) / 64 * 64; }

/// Rows of logits and all that the operation takes and gives. Padded columns and the losses are NaN at first.
struct Rows {
  TestTensor logits, losses;
  std::vector<int32_t> targets;
  int64_t N, V, Vp;
  StepScalars scalars{};

  Rows(DType type, int64_t rows, int64_t tokens, double deviation)
      : logits(type, rows * padded(tokens)), losses(DType::fp32, rows), N(rows), V(tokens), Vp(padded(tokens)) {
    const TestTensor values = normal_tensor(type, N * V, 11, deviation);
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t v = 0; v < V; ++v) logits.set(n * Vp + v, values.get(n * V + v));
      targets.push_back(static_cast<int32_t>(n * 7919 % V));
    }
    targets.back() = static_cast<int32_t>(V - 1);  // the last column
    scalars.loss_scale = 1.0f / 24;
  }

  CrossEntropy operation(bool gradient) {
    return {.logits = logits,
            .losses = losses.fp32(),
            .targets = targets.data(),
            .N = N,
            .V = V,
            .Vp = Vp,
            .gradient = gradient,
            .scalars = gradient ? &scalars : nullptr};
  }
  Rows on_cpu(bool gradient = true) const {
    Rows copy = *this;
    make_cpu_backend(2)->cross_entropy(copy.operation(gradient), {});
    return copy;
  }
  Rows on_cuda(cuda_host::Order order, bool gradient = true) const {
    cuda_host::set_order(order);
    Rows copy = *this;
    cuda::cross_entropy(copy.operation(gradient), {});
    REQUIRE(copy.logits.guard_intact());
    REQUIRE(copy.losses.guard_intact());
    return copy;
  }
};

bool same(const Rows& a, const Rows& b) { return same_bits(a.logits, b.logits) && same_bits(a.losses, b.losses); }

/// Relative to S, and to each exp(z - M): how far apart the CPU and the kernel may be, in a row whose logits reach down
/// to `distance` below their maximum.
///
/// An exponential: 2^-22 and a rounding of the difference on the CPU, (4 + distance) u; here 2 ulp = 4 u of ex2, and
/// three roundings (difference, log2 e, their product) of the argument, together below 2.3 distance u.
/// S: the CPU makes up to 68 additions in FP32, the kernel 8 (from 0 on), both the rest in FP64. A thread's maximum may
/// rise between its groups of four accesses, then a warp's and the block's: each is an exponential more, 4 u; their
/// distances lie end to end and are part of `distance`.
struct Apart {
  double exponential, sum;
  Apart(double distance, int64_t V) {
    const auto groups = static_cast<double>((V + 16383) / 16384);
    exponential = (4 + distance + 4 + 2.3 * distance) * kU;
    sum = exponential + (68 + 8 + 4 * (groups - 1 + 2)) * kU;
  }
};

/// How many values of `found` are further from those of `expected` than roundings explain; `before` holds the logits.
///
/// The loss is off by S and by its two roundings to FP32. A gradient p * scale is off by its exponential, by S and by
/// two roundings on each side; in BF16 neighbours may then round apart, by an ulp (2^-7). The target's (p - 1) * scale
/// is off by that of p * scale.
int64_t outside(const Rows& found, const Rows& expected, const Rows& before) {
  const double scale = double{expected.scalars.loss_scale};
  const double store = found.logits.type() == DType::bf16 ? 0x1p-7 : 0, least = 0x1p-126 * scale;
  int64_t wrong = 0;
  for (int64_t n = 0; n < found.N; ++n) {
    double most = -kInf, smallest = kInf;
    for (int64_t v = 0; v < found.V; ++v) {
      most = std::max(most, before.logits.get(n * found.Vp + v));
      smallest = std::min(smallest, before.logits.get(n * found.Vp + v));
    }
    const Apart apart(most - smallest, found.V);
    const double loss = expected.losses.get(n);
    wrong += !(std::fabs(found.losses.get(n) - loss) <= apart.sum + 2 * kU * std::fabs(loss));
    for (int64_t v = 0; v < found.Vp; ++v) {
      const double g = expected.logits.get(n * found.Vp + v);
      const bool target = v == found.targets[static_cast<size_t>(n)];
      const double p = target ? std::fabs(g + scale) * (1 + store) + scale * store : std::fabs(g);
      const double allowed = p * (apart.exponential + apart.sum) + std::fabs(g) * (4 * kU + store) + least;
      wrong += !(std::fabs(found.logits.get(n * found.Vp + v) - g) <= allowed);
    }
  }
  return wrong;
}

}  // namespace

// Catches: a sum over padded columns (NaN here), a lost tail of a row, the target's column of another row, a gradient
// without its -1 or its scale, a target written before its logit was read, a missing barrier, a row of which the held
// part and the rest overlap or leave a gap. Rows that rise or fall: a sum that keeps, or changes twice, the measure of
// an earlier maximum, in a thread, a warp or the block, or changes it without log2 e.
TEST_CASE("cross_entropy agrees with the CPU, with the same bits in every order") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const auto V = GENERATE(int64_t{1}, int64_t{61}, int64_t{64}, int64_t{1000}, int64_t{4104}, int64_t{50257});
  Rows before(type, V > 10000 ? 2 : 5, V, 2.0);
  for (int64_t v = 0; v < V; ++v) {
    const double slope = 6 * static_cast<double>(v) / static_cast<double>(V);
    const int64_t rising = v, falling = (before.N - 1) * before.Vp + v;
    before.logits.set(rising, before.logits.get(rising) / 8 + slope);
    before.logits.set(falling, before.logits.get(falling) / 8 - slope);
  }
  if (before.N == 5) before.targets[1] = kIgnoredTarget;
  const Rows expected = before.on_cpu(), first = before.on_cuda(cuda_host::kOrders[0]);
  CAPTURE(V);
  REQUIRE(outside(first, expected, before) == 0);
  for (const cuda_host::Order order : cuda_host::kOrders) REQUIRE(same(before.on_cuda(order), first));
}

// Catches: sums that a later maximum does not silence, in the same thread (groups of 16,384 columns), lane or warp: the
// columns of the highest step alone count, 1 each, wherever it lies.
TEST_CASE("cross_entropy forgets what a greater logit dwarfs") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const auto step = GENERATE(int64_t{8}, int64_t{256}, int64_t{4096}, int64_t{16384});
  Rows before(type, 2, 50257, 0.0);
  for (int64_t v = 0; v < before.V; ++v) {
    const auto height = static_cast<double>(v / step % 8 * 1024);
    before.logits.set(v, height);
    before.logits.set(before.Vp + v, -height);
  }
  CAPTURE(step);
  REQUIRE(same(before.on_cuda(cuda_host::kOrders[0]), before.on_cpu()));
}

// Catches: a column counted twice or not at all, wherever it lies: with logits of 0 and -1,000 every exponential is 1
// or 0, so that every order of adding gives the same S. Padding must become 0 itself, and so must an ignored row.
TEST_CASE("cross_entropy gives the CPU's bits where the sum is exact") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const auto V = GENERATE(int64_t{3}, int64_t{72}, int64_t{4095}, int64_t{4097}, int64_t{8200});
  Rows before(type, 9, V, 0.0);
  const TestTensor mask = integer_tensor(DType::fp32, before.N * V, 7, 1);
  for (int64_t n = 0; n < before.N; ++n) {
    for (int64_t v = 0; v < V; ++v) before.logits.set(n * before.Vp + v, mask.get(n * V + v) < 0 ? -1000 : 0);
  }
  before.targets[5] = kIgnoredTarget;
  for (int64_t v = 0; v < V; ++v) before.logits.set(5 * before.Vp + v, std::nan(""));
  const Rows expected = before.on_cpu();
  CAPTURE(V);
  for (const cuda_host::Order order : cuda_host::kOrders) REQUIRE(same(before.on_cuda(order), expected));
}

// Catches: a gradient written in evaluation, scalars read there, another path for the loss.
TEST_CASE("cross_entropy without gradient leaves the logits and gives the same losses") {
  const Rows before(DType::bf16, 5, 1000, 2.0);
  for (const cuda_host::Order order : cuda_host::kOrders) {
    const Rows with = before.on_cuda(order), without = before.on_cuda(order, false);
    REQUIRE(same_bits(without.logits, before.logits));
    REQUIRE(same_bits(without.losses, with.losses));
  }
}

// Catches: exp without its shift, a maximum started at 0, a NaN that a maximum or the logarithm swallows, padding
// multiplied by the NaN factor of a broken row, -Inf - -Inf where a thread sees masked logits alone.
TEST_CASE("cross_entropy overflows nowhere, and broken logits are seen") {
  Rows before(DType::bf16, 8, 61, 0.0);
  const auto fill = [&](int64_t n, double value) {
    for (int64_t v = 0; v < before.V; ++v) before.logits.set(n * before.Vp + v, value);
  };
  before.targets.assign(8, 3);
  fill(0, 0x1p127);
  fill(1, -0x1p127);
  before.logits.set(2 * before.Vp + 9, 0x1p100);  // all of the mass elsewhere
  before.logits.set(3 * before.Vp + 3, 0x1p100);  // all of it on the target
  fill(4, -kInf);
  before.logits.set(4 * before.Vp + 3, 1.0);  // every other one masked
  before.logits.set(5 * before.Vp + 60, std::nan(""));
  before.logits.set(6 * before.Vp + 2, kInf);
  fill(7, -kInf);
  const Rows expected = before.on_cpu();
  for (const cuda_host::Order order : cuda_host::kOrders) {
    const Rows found = before.on_cuda(order);
    for (int64_t n = 0; n < found.N; ++n) {
      if (n >= 5) REQUIRE(std::isnan(found.losses.get(n)));
      if (n < 5) REQUIRE(found.losses.get(n) == expected.losses.get(n));
      for (int64_t v = 0; v < found.Vp; ++v) {
        const double g = found.logits.get(n * found.Vp + v), e = expected.logits.get(n * found.Vp + v);
        REQUIRE((std::isnan(e) ? std::isnan(g) : g == e));
      }
    }
  }
}

// Catches: FP32 sums, one leaf over all sequences, several of them a thread (129 and 300) lost or counted twice, a sum
// that forgets what it held, leaves added before they were written (a missing barrier).
TEST_CASE("sum_losses gives the CPU's digits") {
  const auto B = GENERATE(int64_t{1}, int64_t{3}, int64_t{128}, int64_t{129}, int64_t{300});
  const auto T = GENERATE(int64_t{1}, int64_t{33}, int64_t{65});
  const bool broken = GENERATE(false, true);
  TestTensor losses = normal_tensor(DType::fp32, B * T, 5, 1.0, 4.0);
  if (broken) losses.set(B * T / 2, std::nan(""));
  ExactSum expected;
  expected.add(-0.3);
  const ExactSum before = expected;
  make_cpu_backend(2)->sum_losses({.sum = &expected, .losses = losses.fp32(), .B = B, .T = T}, {});
  for (const cuda_host::Order order : cuda_host::kOrders) {
    cuda_host::set_order(order);
    ExactSum sum = before;
    cuda::sum_losses({.sum = &sum, .losses = losses.fp32(), .B = B, .T = T}, {});
    CAPTURE(B, T);
    REQUIRE(std::equal(sum.digit, sum.digit + 6, expected.digit));
    REQUIRE(sum.non_finite == (broken ? 1 : 0));
  }
}

// Catches: an operation that starts its kernel without check().
TEST_CASE("cross_entropy and sum_losses on CUDA check their arguments") {
  Rows rows(DType::bf16, 2, 61, 1.0);
  CrossEntropy op = rows.operation(true);
  op.Vp = 60;
  REQUIRE_THROWS_AS(cuda::cross_entropy(op, {}), Error);
  ExactSum sum;
  REQUIRE_THROWS_AS(cuda::sum_losses({.sum = &sum, .losses = rows.losses.fp32(), .B = 0, .T = 2}, {}), Error);
}

}  // namespace dither
