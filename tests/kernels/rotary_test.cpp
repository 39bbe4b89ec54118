// Rotary positions and QK-norm against FP64: forward by its definition, backward by finite differences of that.
#include <cmath>
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

struct Shape {
  int64_t N, T;
  int H, Hkv, D;
  DType type;
  bool norm, rotation;
  int64_t row() const { return int64_t{H + 2 * Hkv} * D; }
};

/// Every head size once, grouped and not, sequences that no part divides.
Shape any_shape(DType type, bool norm, bool rotation) {
  Shape s = GENERATE(Shape{1, 1, 1, 1, 32, {}, {}, {}}, Shape{6, 2, 2, 1, 48, {}, {}, {}},
                     Shape{65, 65, 4, 1, 64, {}, {}, {}}, Shape{10, 5, 3, 3, 80, {}, {}, {}},
                     Shape{33, 11, 2, 2, 96, {}, {}, {}}, Shape{9, 3, 4, 2, 112, {}, {}, {}},
                     Shape{35, 7, 1, 1, 128, {}, {}, {}});
  s.type = type, s.norm = norm, s.rotation = rotation;
  return s;
}

struct Tensors {
  TestTensor qkv, out, rstd, cos_sin, query_gain, key_gain;

  explicit Tensors(const Shape& s)
      : qkv(normal_tensor(s.type, s.N * s.row(), 1)),
        out(s.type, s.N * s.row()),
        rstd(DType::fp32, s.N * (s.H + s.Hkv)),
        cos_sin(DType::fp32, s.T * s.D),
        query_gain(normal_tensor(DType::bf16, s.D, 2, 0.3, 1)),
        key_gain(normal_tensor(DType::bf16, s.D, 3, 0.3, 1)) {
    for (int64_t t = 0; t < s.T; ++t) {
      for (int i = 0; i < s.D / 2; ++i) {
        const double angle = static_cast<double>(t) * std::pow(10000.0, -2.0 * i / s.D);
        cos_sin.set(t * s.D + 2 * i, std::cos(angle));
        cos_sin.set(t * s.D + 2 * i + 1, std::sin(angle));
      }
    }
  }

  RotaryForward forward(const Shape& s) {
    return {.out = out,
            .rstd = s.norm ? rstd.fp32() : nullptr,
            .qkv = qkv,
            .cos_sin = s.rotation ? cos_sin.fp32() : nullptr,
            .query_gain = s.norm ? ConstView(query_gain) : ConstView(),
            .key_gain = s.norm ? ConstView(key_gain) : ConstView(),
            .N = s.N,
            .T = s.T,
            .H = s.H,
            .Hkv = s.Hkv,
            .D = s.D,
            .epsilon = kEpsilon};
  }
};

std::vector<double> head_of(const TestTensor& tensor, const Shape& s, int64_t n, int head) {
  std::vector<double> values;
  for (int d = 0; d < s.D; ++d) values.push_back(tensor.get(n * s.row() + head * s.D + d));
  return values;
}

/// One query or key head in FP64. z is the normalised head before its gain.
struct Head {
  std::vector<double> out, z;
  double rstd = 1;

  Head(const Tensors& t, const Shape& s, int64_t n, int head, const std::vector<double>& x) {
    double squares = 0;
    for (const double value : x) squares += value * value / s.D;
    if (s.norm) rstd = 1 / std::sqrt(squares + static_cast<double>(kEpsilon));
    const TestTensor& gain = head < s.H ? t.query_gain : t.key_gain;
    std::vector<double> u;
    for (int d = 0; d < s.D; ++d) {
      z.push_back(x[static_cast<size_t>(d)] * rstd);
      u.push_back(z.back() * (s.norm ? gain.get(d) : 1.0));
    }
    out = u;
    const int half = s.D / 2;
    for (int i = 0; s.rotation && i < half; ++i) {
      const double cosine = t.cos_sin.get(n % s.T * s.D + 2 * i), sine = t.cos_sin.get(n % s.T * s.D + 2 * i + 1);
      const double a = u[static_cast<size_t>(i)], b = u[static_cast<size_t>(i + half)];
      out[static_cast<size_t>(i)] = a * cosine - b * sine;
      out[static_cast<size_t>(i + half)] = b * cosine + a * sine;
    }
  }
};

bool value_heads_equal(const TestTensor& a, const TestTensor& b, const Shape& s) {
  for (int64_t n = 0; n < s.N; ++n) {
    for (int64_t d = int64_t{s.H + s.Hkv} * s.D; d < s.row(); ++d) {
      if (a.get(n * s.row() + d) != b.get(n * s.row() + d)) return false;
    }
  }
  return true;
}

// Catches: rotation by neighbours instead of halves, the other direction, positions that run on over sequences, the
// key heads left unrotated or given the query gain, a tail of half a head (D = 48, 80, 112) skipped, two roundings.
OPERATION_TEST(rotary_forward, "agrees with FP64 for every head size") {
  const DType type = GENERATE(DType::bf16, DType::fp32);
  const bool norm = GENERATE(false, true), rotation = GENERATE(false, true);
  const Shape s = any_shape(type, norm, rotation);
  Tensors t(s);
  test_backend(2)->rotary_forward(t.forward(s), {});
  for (int64_t n = 0; n < s.N; ++n) {
    for (int head = 0; head < s.H + s.Hkv; ++head) {
      const Head expected(t, s, n, head, head_of(t.qkv, s, n, head));
      if (norm) {
        const double found = t.rstd.get(n * (s.H + s.Hkv) + head);
        REQUIRE(std::fabs(found - expected.rstd) <= expected.rstd * (s.D / 16 + 10) * kU);
      }
      const std::vector<double> found = head_of(t.out, s, n, head);
      for (size_t d = 0; d < found.size(); ++d) {
        // The two products of a rotation may cancel: their roundings count by the pair's length.
        const size_t pair = (d + found.size() / 2) % found.size();
        const double size = std::hypot(expected.out[d], expected.out[pair]);
        const double bound = size * (s.D / 16 + 16) * kU + std::fabs(expected.out[d]) * rounding_of(type);
        if (!(std::fabs(found[d] - expected.out[d]) <= bound)) {
          CAPTURE(n, head, d, found[d], expected.out[d]);
          FAIL("outside the bound");
        }
      }
    }
  }
  REQUIRE(value_heads_equal(t.out, t.qkv, s));
  REQUIRE(t.out.guard_intact());
  REQUIRE(t.rstd.guard_intact());
}

struct Gradients {
  TestTensor d_qkv, d_query_gain, d_key_gain;

  Gradients(const Shape& s, DType gain)
      : d_qkv(s.type, s.N * s.row()), d_query_gain(gain, s.D), d_key_gain(gain, s.D) {}
};

void run_backward(const Shape& s, Tensors& t, const TestTensor& d_out, Gradients& g, bool in_place, int threads) {
  RotaryBackward op{.d_qkv = g.d_qkv,
                    .d_query_gain = s.norm ? View(g.d_query_gain) : View(),
                    .d_key_gain = s.norm ? View(g.d_key_gain) : View(),
                    .d_out = in_place ? ConstView(g.d_qkv) : ConstView(d_out),
                    .qkv = s.norm ? ConstView(t.qkv) : ConstView(),
                    .rstd = s.norm ? t.rstd.fp32() : nullptr,
                    .cos_sin = s.rotation ? t.cos_sin.fp32() : nullptr,
                    .query_gain = s.norm ? ConstView(t.query_gain) : ConstView(),
                    .key_gain = s.norm ? ConstView(t.key_gain) : ConstView(),
                    .N = s.N,
                    .T = s.T,
                    .H = s.H,
                    .Hkv = s.Hkv,
                    .D = s.D,
                    .workspace = nullptr};
  TestTensor workspace(DType::fp32, op.workspace_bytes() / 4);
  op.workspace = s.norm ? workspace.fp32() : nullptr;
  if (in_place) g.d_qkv = TestTensor(d_out), op.d_qkv = g.d_qkv, op.d_out = g.d_qkv;
  test_backend(threads)->rotary_backward(op, {});
  REQUIRE(workspace.guard_intact());
}

/// d_qkv of one head by central differences of sum_d d_out * out, whose own error is below 1e-8 in FP64.
void compare_head(const Shape& s, const Tensors& t, const TestTensor& d_out, const Gradients& g, int64_t n, int head) {
  std::vector<double> x = head_of(t.qkv, s, n, head);
  const std::vector<double> gradient = head_of(d_out, s, n, head), found = head_of(g.d_qkv, s, n, head);
  const Head now(t, s, n, head, x);
  double length = 0;
  for (const double value : gradient) length += value * value;
  length = std::sqrt(length);
  const auto loss = [&] {
    const Head moved(t, s, n, head, x);
    double total = 0;
    for (size_t d = 0; d < x.size(); ++d) total += gradient[d] * moved.out[d];
    return total;
  };
  for (size_t d = 0; d < x.size(); ++d) {
    const double step = 1e-4, place = x[d];
    x[d] = place + step;
    const double above = loss();
    x[d] = place - step;
    const double below = loss();
    x[d] = place;
    const double expected = (above - below) / (2 * step);
    // Gains are below 2.5 here; by Cauchy |mean(dz z)| <= 2.5 * length / sqrt(D), and |z| <= 4.
    const double bound =
        now.rstd * 2.5 * length * (s.D / 16 + 24) * kU + 1e-7 + std::fabs(expected) * rounding_of(s.type);
    if (!(std::fabs(found[d] - expected) <= bound)) {
      CAPTURE(n, head, d, found[d], expected, bound);
      FAIL("outside the bound");
    }
  }
}

/// A gain's gradient is the sum over tokens and heads of du * z, du the gradient turned back.
void compare_gain(const Shape& s, const Tensors& t, const TestTensor& d_out, const TestTensor& found, int first,
                  int last) {
  for (int d = 0; d < s.D; ++d) {
    double sum = 0, size = 0;
    for (int64_t n = 0; n < s.N; ++n) {
      for (int head = first; head < last; ++head) {
        const Head now(t, s, n, head, head_of(t.qkv, s, n, head));
        const std::vector<double> g = head_of(d_out, s, n, head);
        const int half = s.D / 2, i = d % half;
        const double a = g[static_cast<size_t>(i)], b = g[static_cast<size_t>(i + half)];
        const double cosine = s.rotation ? t.cos_sin.get(n % s.T * s.D + 2 * i) : 1;
        const double sine = s.rotation ? t.cos_sin.get(n % s.T * s.D + 2 * i + 1) : 0;
        const double du = d < half ? a * cosine + b * sine : b * cosine - a * sine;
        sum += du * now.z[static_cast<size_t>(d)];
        size += std::hypot(a, b) * std::fabs(now.z[static_cast<size_t>(d)]);
      }
    }
    const double roundings = static_cast<double>(32 * (last - first) + s.N / 32 + s.D / 16 + 16) * kU;
    CAPTURE(d, first, sum, found.get(d));
    REQUIRE(std::fabs(found.get(d) - sum) <= size * roundings + std::fabs(sum) * rounding_of(found.type()));
  }
}

// Catches: the forward rotation used backward, the norm's Jacobian without its projection, gain left out of it, gain
// sums of queries and keys mixed or one block of tokens short.
OPERATION_TEST(rotary_backward, "agrees with finite differences of the FP64 forward for every head size") {
  const DType type = GENERATE(DType::bf16, DType::fp32);
  const bool norm = GENERATE(false, true), rotation = GENERATE(false, true);
  const Shape s = any_shape(type, norm, rotation);
  Tensors t(s);
  test_backend(1)->rotary_forward(t.forward(s), {});
  const TestTensor d_out = normal_tensor(type, s.N * s.row(), 4);
  Gradients g(s, rotation ? DType::fp32 : DType::bf16);
  run_backward(s, t, d_out, g, false, 2);
  for (int64_t n = 0; n < s.N; n += n < 3 ? 1 : 13) {  // every third position of the long ones: differences are slow
    for (int head = 0; head < s.H + s.Hkv; ++head) compare_head(s, t, d_out, g, n, head);
  }
  REQUIRE(value_heads_equal(g.d_qkv, d_out, s));
  REQUIRE(g.d_qkv.guard_intact());
  if (!norm) return;
  compare_gain(s, t, d_out, g.d_query_gain, 0, s.H);
  compare_gain(s, t, d_out, g.d_key_gain, s.H, s.H + s.Hkv);
}

// Catches: halves written before both were read, value heads copied over themselves wrongly, sums cut by threads.
TEST_CASE("rotary gives the same bits in place and on 1 to 4 threads") {
  const DType type = GENERATE(DType::bf16, DType::fp32);
  const bool norm = GENERATE(false, true);
  const Shape s{.N = 101, .T = 101, .H = 4, .Hkv = 2, .D = 80, .type = type, .norm = norm, .rotation = true};
  const TestTensor d_out = normal_tensor(type, s.N * s.row(), 5);
  Tensors expected(s);
  test_backend(1)->rotary_forward(expected.forward(s), {});
  Gradients expected_gradients(s, DType::bf16);
  run_backward(s, expected, d_out, expected_gradients, false, 1);
  for (const int threads : {1, 2, 3, 4}) {
    Tensors t(s);
    RotaryForward op = t.forward(s);
    if (!norm) op.out = t.qkv;
    test_backend(threads)->rotary_forward(op, {});
    REQUIRE(same_bits(norm ? t.out : t.qkv, expected.out));
    Gradients g(s, DType::bf16);
    run_backward(s, t, d_out, g, true, threads);
    REQUIRE(same_bits(g.d_qkv, expected_gradients.d_qkv));
    REQUIRE(same_bits(g.d_query_gain, expected_gradients.d_query_gain));
    REQUIRE(same_bits(g.d_key_gain, expected_gradients.d_key_gain));
  }
}

// Catches: a demand that was forgotten or names another value than it tests.
TEST_CASE("rotary refuses what it cannot compute and says why") {
  const Shape s{.N = 6, .T = 3, .H = 4, .Hkv = 2, .D = 64, .type = DType::bf16, .norm = true, .rotation = true};
  Tensors t(s);
  const RotaryForward good = t.forward(s);
  REQUIRE_NOTHROW(good.check());
  auto op = good;
  op.T = 4;
  REQUIRE_THROWS_WITH(op.check(), "rotary_forward: T is 4, needs a divisor of N");
  op = good, op.D = 72;
  REQUIRE_THROWS_WITH(op.check(), "rotary_forward: D is 72, needs 32, 48, 64, 80, 96, 112 or 128");
  op = good, op.H = 3;
  REQUIRE_THROWS_WITH(op.check(), "rotary_forward: H is 3, needs a multiple of Hkv");
  op = good, op.out = t.qkv;
  REQUIRE_THROWS_WITH(op.check(),
                      "rotary_forward: with QK-norm the distance in bytes from out to qkv is 0, "
                      "needs tensors that do not overlap");
  op = good, op.key_gain = {};
  REQUIRE_THROWS_WITH(op.check(), "rotary_forward: key_gain is absent, needs a BF16 or FP32 tensor");
  op = good, op.query_gain = {};
  REQUIRE_THROWS_WITH(op.check(), "rotary_forward: the number of key_gain tensors is 1, needs 0 without query_gain");
  op = good, op.rstd = nullptr;
  REQUIRE_THROWS_WITH(op.check(), "rotary_forward: rstd is 0, needs memory for N * (H + Hkv) values with QK-norm");
  RotaryBackward backward{.d_qkv = t.out,
                          .d_query_gain = t.query_gain,
                          .d_key_gain = t.cos_sin,
                          .d_out = t.out,
                          .qkv = t.qkv,
                          .rstd = t.rstd.fp32(),
                          .cos_sin = nullptr,
                          .query_gain = t.query_gain,
                          .key_gain = t.key_gain,
                          .N = 6,
                          .T = 3,
                          .H = 4,
                          .Hkv = 2,
                          .D = 64,
                          .workspace = t.rstd.fp32()};
  REQUIRE_THROWS_WITH(backward.check(), "rotary_backward: d_key_gain is fp32, needs bf16");
  backward.d_key_gain = t.key_gain;
  REQUIRE_NOTHROW(backward.check());
  backward.workspace = nullptr;
  REQUIRE_THROWS_WITH(backward.check(), "rotary_backward: workspace is 0, needs memory of workspace_bytes()");
}

}  // namespace
}  // namespace dither
