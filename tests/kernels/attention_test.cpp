// Causal attention against FP64 with the whole [T,T] matrix: what the tiles must amount to.
//
// Bounds. A score sums D products: its error is at most e = (D + 8) u scale sum |q k|, u = 2^-24, which moves a weight
// p by the factor 1 + 2e; the exponential, up to T rescalings and sums over T or D terms add (T + D + 64) u. So with r
// = 2e + (T + D + 64) u every result is within r times the sum of its terms' sizes, and stored within half an ulp. With
// BF16 activations a backend may round the weights p, and ds, to BF16 before they meet a second matrix, as tensor cores
// ask: one more relative error, v = 2^-8, in each term, so r grows by v. The denominator, and so lse, has p unrounded.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "kernels/backend.h"
#include "tests/kernels/attention_case.h"
#include "tests/kernels/operation_test.h"
#include "tests/kernels/test_backend.h"

namespace dither {
namespace {

using Shape = AttentionShape;
using Tensors = AttentionTensors;

constexpr double kU = 0x1p-24;
double rounding_of(DType type) { return type == DType::bf16 ? 0x1p-8 : kU; }  // half an ulp, relative

/// Every head size, groups of 1, 2 and 4, lengths around tiles of 64 and their row groups of 4, and over several tiles.
Shape any_shape() {
  return GENERATE(Shape{2, 1, 2, 2, 32}, Shape{3, 2, 2, 1, 48}, Shape{2, 65, 4, 1, 64}, Shape{1, 100, 2, 2, 80},
                  Shape{1, 64, 2, 1, 96}, Shape{2, 63, 1, 1, 112}, Shape{1, 130, 4, 2, 128}, Shape{1, 257, 2, 1, 64},
                  Shape{1, 70, 3, 1, 32}, Shape{2, 129, 2, 1, 48}, Shape{1, 300, 2, 1, 128});
}

void run_forward(const Shape& s, Tensors& t, int threads = 2) {
  test_backend(threads)->attention_forward(forward_of(s, t), {});
}

void run_backward(const Shape& s, Tensors& t, int threads = 2) {
  with_workspace(s, t, [&](const AttentionBackward& op) { test_backend(threads)->attention_backward(op, {}); });
}

/// Results in FP64, each with the sum of its terms' sizes.
struct Reference {
  std::vector<double> out, out_size, lse, d_qkv, d_qkv_size;
  double weight_error = 0, score_error = 0;  // r of the opening, the largest of all rows, and r without v

  Reference(const Shape& s, const Tensors& t) : s_(s) {
    out.resize(static_cast<size_t>(s.B * s.T * s.H * s.D));
    out_size = out;
    lse.resize(static_cast<size_t>(s.B * s.H * s.T));
    d_qkv.resize(static_cast<size_t>(s.B * s.T * s.row()));
    d_qkv_size = d_qkv;
    qkv_ = to_doubles(t.qkv);
    d_out_ = to_doubles(t.d_out);
    for (int64_t b = 0; b < s.B; ++b) {
      for (int h = 0; h < s.H; ++h) {
        for (int64_t time = 0; time < s.T; ++time) query(b, h, time, rounding_of(t.out.type()));
      }
    }
  }

 private:
  size_t slot(int64_t b, int64_t time, int head) const {
    return static_cast<size_t>((b * s_.T + time) * s_.row() + int64_t{head} * s_.D);
  }

  /// One query: its output, and what its gradient sends to itself and to the keys and values it sees.
  void query(int64_t b, int h, int64_t time, double stored) {
    const int key_head = s_.H + h / (s_.H / s_.Hkv), value_head = key_head + s_.Hkv;
    const double scale = static_cast<double>(s_.scale());
    const auto D = static_cast<size_t>(s_.D), count = static_cast<size_t>(time + 1);
    const size_t q = slot(b, time, h), o = static_cast<size_t>(((b * s_.T + time) * s_.H + h) * s_.D);
    std::vector<double> p(count), dp(count), dp_size(count);
    double top = -1e300, total = 0, largest = 0;
    for (size_t u = 0; u < count; ++u) {
      const size_t k = slot(b, static_cast<int64_t>(u), key_head);
      double size = 0;
      for (size_t d = 0; d < D; ++d) {
        p[u] += scale * qkv_[q + d] * qkv_[k + d];
        size += scale * std::fabs(qkv_[q + d] * qkv_[k + d]);
      }
      top = std::max(top, p[u]);
      largest = std::max(largest, size);
    }
    const double sums = static_cast<double>(s_.T + s_.D + 64) * kU, packed = stored > kU ? stored : 0;
    score_error = std::max(score_error, 2 * (s_.D + 8) * kU * largest + sums);
    weight_error = std::max(weight_error, score_error + packed);
    for (double& x : p) total += x = std::exp(x - top);
    lse[static_cast<size_t>((b * s_.H + h) * s_.T + time)] = top + std::log(total);
    double delta = 0, delta_size = 0;
    for (size_t u = 0; u < count; ++u) {
      p[u] /= total;
      const size_t v = slot(b, static_cast<int64_t>(u), value_head);
      for (size_t d = 0; d < D; ++d) {
        out[o + d] += p[u] * qkv_[v + d];
        out_size[o + d] += p[u] * std::fabs(qkv_[v + d]);
        dp[u] += d_out_[o + d] * qkv_[v + d];
        dp_size[u] += std::fabs(d_out_[o + d] * qkv_[v + d]);
      }
      delta += p[u] * dp[u];
    }
    // Forward stored `out` with a rounding, which enters delta = d_out . out: counted in units of weight_error, at
    // least sums + packed.
    for (size_t d = 0; d < D; ++d)
      delta_size += std::fabs(d_out_[o + d]) * out_size[o + d] * (1 + stored / (sums + packed));
    for (size_t u = 0; u < count; ++u) {
      const size_t k = slot(b, static_cast<int64_t>(u), key_head), v = slot(b, static_cast<int64_t>(u), value_head);
      const double ds = p[u] * (dp[u] - delta), ds_size = p[u] * (dp_size[u] + delta_size);
      for (size_t d = 0; d < D; ++d) {
        d_qkv[q + d] += scale * ds * qkv_[k + d];
        d_qkv_size[q + d] += scale * ds_size * std::fabs(qkv_[k + d]);
        d_qkv[k + d] += scale * ds * qkv_[q + d];
        d_qkv_size[k + d] += scale * ds_size * std::fabs(qkv_[q + d]);
        d_qkv[v + d] += p[u] * d_out_[o + d];
        d_qkv_size[v + d] += p[u] * std::fabs(d_out_[o + d]);
      }
    }
  }

  Shape s_;
  std::vector<double> qkv_, d_out_;
};

/// The largest error of any element in units of its bound: at most 1 where all is well.
double worst(const TestTensor& found, const std::vector<double>& expected, const std::vector<double>& size, double r) {
  double largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = std::fabs(found.get(static_cast<int64_t>(i)) - expected[i]);
    const double share = error / (size[i] * r + std::fabs(expected[i]) * rounding_of(found.type()) + 1e-30);
    if (!(share <= largest)) largest = std::isnan(share) ? 1e300 : share;
  }
  return largest;
}

// Catches: a mask one off, a scale left out or squared, a group that reads another KV head, a tile's tail left out, old
// sums not rescaled when the running top moves.
OPERATION_TEST(attention_forward, "agrees with FP64 for every head size, group and tail") {
  const DType type = GENERATE(DType::bf16, DType::fp32);
  const Shape s = any_shape();
  Tensors t(s, type);
  run_forward(s, t);
  const Reference reference(s, t);
  CAPTURE(s.T, s.H, s.Hkv, s.D);
  REQUIRE(worst(t.out, reference.out, reference.out_size, reference.weight_error) <= 1);
  for (int64_t i = 0; i < t.lse.elements(); ++i) {
    const double expected = reference.lse[static_cast<size_t>(i)];
    REQUIRE(std::fabs(t.lse.get(i) - expected) <= reference.score_error + kU * std::fabs(expected));
  }
  REQUIRE(t.out.guard_intact());
  REQUIRE(t.lse.guard_intact());
}

// Catches: delta left out, a scale too many or too few, query heads of a group lost or doubled, keys of the last block
// or queries behind it read as if they were there.
OPERATION_TEST(attention_backward, "agrees with the FP64 gradient for every head size, group and tail") {
  const DType type = GENERATE(DType::bf16, DType::fp32);
  const Shape s = any_shape();
  Tensors t(s, type);
  run_forward(s, t);
  run_backward(s, t);
  const Reference reference(s, t);
  CAPTURE(s.T, s.H, s.Hkv, s.D);
  REQUIRE(worst(t.d_qkv, reference.d_qkv, reference.d_qkv_size, 2 * reference.weight_error) <= 1);
  REQUIRE(t.d_qkv.guard_intact());
}

// With equal keys and values every weight is the same, out is the value itself, and d_out . v = delta: integers, so
// that the sums are exact in any order and ds is 0. Catches what the bound above is too wide for: a delta of another
// row or head, or a little off.
TEST_CASE("attention_backward: values that are all equal send no gradient to queries and keys") {
  const int D = GENERATE(64, 128);
  const Shape s{.B = 2, .T = 140, .H = 4, .Hkv = 2, .D = D};
  Tensors t(s, DType::bf16);
  t.qkv = integer_tensor(DType::bf16, t.qkv.elements(), 3, 2);
  t.d_out = integer_tensor(DType::bf16, t.d_out.elements(), 4, 4);
  for (int64_t i = 0; i < t.qkv.elements(); ++i) {
    if (i % s.row() >= s.H * s.D) t.qkv.set(i, t.qkv.get(i % s.row()));  // the first token's key or value
  }
  run_forward(s, t);
  run_backward(s, t);
  int64_t wrong = 0, alive = 0;
  for (int64_t i = 0; i < t.d_qkv.elements(); ++i) {
    const bool value = i % s.row() >= (s.H + s.Hkv) * s.D;
    wrong += !value && t.d_qkv.get(i) != 0;
    alive += value && t.d_qkv.get(i) != 0;
  }
  REQUIRE(wrong == 0);
  REQUIRE(alive > 0);
}

// Catches: a wrong formula in the reference of these tests.
TEST_CASE("attention_backward: the reference's gradient is that of its own forward") {
  const Shape s{.B = 1, .T = 5, .H = 2, .Hkv = 1, .D = 32};
  Tensors t(s, DType::fp32);
  const Reference reference(s, t);
  const auto loss = [&] {
    const Reference moved(s, t);
    double total = 0;
    for (size_t i = 0; i < moved.out.size(); ++i) total += moved.out[i] * t.d_out.get(static_cast<int64_t>(i));
    return total;
  };
  for (int64_t i = 0; i < t.qkv.elements(); i += 3) {
    const float place = t.qkv.fp32()[i], step = 0x1p-12f;
    t.qkv.fp32()[i] = place + step;
    const double above = loss(), high = t.qkv.get(i);
    t.qkv.fp32()[i] = place - step;
    const double below = loss(), low = t.qkv.get(i);
    t.qkv.fp32()[i] = place;
    CAPTURE(i);
    REQUIRE(std::fabs((above - below) / (high - low) - reference.d_qkv[static_cast<size_t>(i)]) < 1e-5);
  }
}

// Catches: a softmax without its top (Inf / Inf), a masked score that wins against very negative ones.
TEST_CASE("attention: scores of thousands stay finite and right") {
  const DType type = GENERATE(DType::bf16, DType::fp32);
  const Shape s{.B = 1, .T = 100, .H = 2, .Hkv = 1, .D = 64};
  Tensors t(s, type, 40);
  run_forward(s, t);
  run_backward(s, t);
  const Reference reference(s, t);
  REQUIRE(*std::max_element(reference.lse.begin(), reference.lse.end()) > 2000);
  REQUIRE(worst(t.out, reference.out, reference.out_size, reference.weight_error) <= 1);
  REQUIRE(worst(t.d_qkv, reference.d_qkv, reference.d_qkv_size, 2 * reference.weight_error) <= 1);
  for (int64_t i = 0; i < t.qkv.elements() / s.row(); ++i) {  // every score far below 0: k = -q
    for (int64_t d = 0; d < s.D; ++d) {
      t.qkv.set(i * s.row() + d, 40);
      t.qkv.set(i * s.row() + s.H * s.D + d, -40);
    }
  }
  run_forward(s, t);
  const Reference negative(s, t);
  REQUIRE(negative.lse[0] < -10000);
  REQUIRE(worst(t.out, negative.out, negative.out_size, negative.weight_error) <= 1);
}

// Catches: any look at a later token, in forward; in backward, gradient that reaches a later token.
TEST_CASE("attention: a later token changes no earlier output bit and gets no gradient from one") {
  const DType type = GENERATE(DType::bf16, DType::fp32);
  const int64_t cut = GENERATE(1, 3, 63, 64, 65, 70, 99);
  const Shape s{.B = 1, .T = 100, .H = 4, .Hkv = 2, .D = 48};
  Tensors before(s, type), after(s, type);
  for (int64_t i = cut * s.row(); i < s.T * s.row(); ++i) after.qkv.set(i, -3 * before.qkv.get(i) + 1);
  run_forward(s, before);
  run_forward(s, after);
  for (int64_t i = 0; i < cut * s.H * s.D; ++i) REQUIRE(before.out.get(i) == after.out.get(i));
  for (int h = 0; h < s.H; ++h) {
    for (int64_t time = 0; time < cut; ++time) {
      REQUIRE(before.lse.get(h * s.T + time) == after.lse.get(h * s.T + time));
    }
  }
  REQUIRE(before.out.get(cut * s.H * s.D) != after.out.get(cut * s.H * s.D));  // the change is alive
  for (int64_t i = cut * s.H * s.D; i < s.T * s.H * s.D; ++i) after.d_out.set(i, 0);
  run_backward(s, after);
  for (int64_t i = cut * s.row(); i < s.T * s.row(); ++i) REQUIRE(after.d_qkv.get(i) == 0);
  REQUIRE(after.d_qkv.get((s.H + s.Hkv) * s.D) != 0);
}

// Catches: work shared between threads in another order, a neighbour sequence's memory read or written.
TEST_CASE("attention gives the same bits on 1 to 4 threads and for each sequence alone") {
  const DType type = GENERATE(DType::bf16, DType::fp32);
  const Shape s{.B = 3, .T = 101, .H = 4, .Hkv = 2, .D = 32};
  Tensors expected(s, type);
  run_forward(s, expected, 1);
  run_backward(s, expected, 1);
  for (const int threads : {2, 3, 4}) {
    Tensors t(s, type);
    run_forward(s, t, threads);
    run_backward(s, t, threads);
    REQUIRE(same_bits(t.out, expected.out));
    REQUIRE(same_bits(t.lse, expected.lse));
    REQUIRE(same_bits(t.d_qkv, expected.d_qkv));
  }
  Shape one = s;
  one.B = 1;
  for (int64_t b = 0; b < s.B; ++b) {
    Tensors t(one, type);
    const int64_t packed = s.T * s.row(), heads = s.T * s.H * s.D;
    for (int64_t i = 0; i < packed; ++i) t.qkv.set(i, expected.qkv.get(b * packed + i));
    for (int64_t i = 0; i < heads; ++i) t.d_out.set(i, expected.d_out.get(b * heads + i));
    run_forward(one, t);
    run_backward(one, t);
    for (int64_t i = 0; i < heads; ++i) REQUIRE(t.out.get(i) == expected.out.get(b * heads + i));
    for (int64_t i = 0; i < packed; ++i) REQUIRE(t.d_qkv.get(i) == expected.d_qkv.get(b * packed + i));
  }
}

// Catches: a demand that was forgotten or names another value than it tests.
TEST_CASE("attention refuses what it cannot compute and says why") {
  const Shape s{.B = 1, .T = 4, .H = 4, .Hkv = 2, .D = 64};
  Tensors t(s, DType::bf16);
  const AttentionForward good{
      .out = t.out, .lse = t.lse.fp32(), .qkv = t.qkv, .B = 1, .T = 4, .H = 4, .Hkv = 2, .D = 64, .scale = 0.125f};
  REQUIRE_NOTHROW(good.check());
  auto op = good;
  op.D = 40;
  REQUIRE_THROWS_WITH(op.check(), "attention_forward: D is 40, needs 32, 48, 64, 80, 96, 112 or 128");
  op = good, op.H = 5;
  REQUIRE_THROWS_WITH(op.check(), "attention_forward: H is 5, needs a multiple of Hkv");
  op = good, op.T = 0;
  REQUIRE_THROWS_WITH(op.check(), "attention_forward: T is 0, needs at least 1");
  op = good, op.scale = -1;
  REQUIRE_THROWS_WITH(op.check(), "attention_forward: scale is -1.000000, needs a real above 0");
  op = good, op.out = t.qkv;
  REQUIRE_THROWS_WITH(
      op.check(), "attention_forward: the distance in bytes from out to qkv is 0, needs tensors that do not overlap");
  op = good, op.out = t.lse;
  REQUIRE_THROWS_WITH(op.check(), "attention_forward: out is fp32, needs bf16");
  op = good, op.lse = nullptr;
  REQUIRE_THROWS_WITH(op.check(), "attention_forward: lse is 0, needs memory for B * H * T values");
  AttentionBackward backward = backward_of(s, t);
  REQUIRE_THROWS_WITH(backward.check(), "attention_backward: workspace is 0, needs memory of workspace_bytes()");
  backward.workspace = t.lse.fp32();
  REQUIRE_NOTHROW(backward.check());
  backward.d_qkv = t.qkv;
  REQUIRE_THROWS_WITH(
      backward.check(),
      "attention_backward: the distance in bytes from d_qkv to qkv is 0, needs tensors that do not overlap");
}

}  // namespace
}  // namespace dither
