// Plain FP32 attention: the CUDA kernels, run on the host in every order of their threads, against the CPU.
//
// Bounds. Both sum the same terms in other orders. A score sums D products: its error is at most e = (D + 8) u scale
// sum |q k|, u = 2^-24, which moves a weight p by the factor 1 + 2e; the exponential, up to T rescalings and sums over
// T or D terms add (T + D + 64) u. So with r = 2e + (T + D + 64) u a result of forward is within r times the sum of its
// terms' sizes, one of backward, where two such errors meet, within 2r of it; and two backends within twice that.
#include <algorithm>
#include <cmath>
#include <utility>  // move
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/attention_plain.h"
#include "tests/catch.h"
#include "tests/cuda_host/execution.h"
#include "tests/kernels/attention_case.h"

namespace dither {
namespace {

using Shape = AttentionShape;
using Tensors = AttentionTensors;

constexpr double kU = 0x1p-24;

/// Every head size; groups of 1, 2 and 4; lengths around the tile of 32 and the 16 rows of a block.
constexpr Shape kShapes[] = {{2, 1, 2, 2, 32},   {2, 2, 4, 1, 48},   {2, 33, 2, 1, 64},  {1, 65, 2, 2, 80},
                             {1, 100, 4, 2, 96}, {2, 33, 4, 1, 112}, {1, 65, 4, 2, 128}, {1, 100, 4, 1, 32},
                             {3, 16, 2, 1, 128}, {1, 48, 1, 1, 64}};

Tensors on_cpu(const Shape& s) {
  Tensors t(s, DType::fp32);
  const auto cpu = make_cpu_backend(2);
  cpu->attention_forward(forward_of(s, t), {});
  with_workspace(s, t, [&](const AttentionBackward& op) { cpu->attention_backward(op, {}); });
  return t;
}

/// Sums of the sizes of the terms of each result, in FP64 from the CPU's lse and out; and r, the largest of all rows.
struct Sizes {
  std::vector<double> out, d_qkv;
  double r = 0;

  Sizes(const Shape& shape, const Tensors& tensors) : s(shape), t(tensors) {
    out.resize(static_cast<size_t>(t.out.elements()));
    d_qkv.resize(static_cast<size_t>(t.d_qkv.elements()));
    for (int64_t b = 0; b < s.B; ++b) {
      for (int h = 0; h < s.H; ++h) {
        for (int64_t time = 0; time < s.T; ++time) add_query(b, h, time);
      }
    }
  }

 private:
  int64_t slot(int64_t b, int64_t time, int head) const { return (b * s.T + time) * s.row() + int64_t{head} * s.D; }
  double qkv(int64_t place) const { return std::fabs(t.qkv.get(place)); }
  double& at(int64_t place) { return d_qkv[static_cast<size_t>(place)]; }

  void add_query(int64_t b, int h, int64_t time) {
    const int key_head = s.H + h / (s.H / s.Hkv);
    const int64_t q = slot(b, time, h), o = ((b * s.T + time) * s.H + h) * s.D;
    const double scale = static_cast<double>(s.scale()), lse = t.lse.get((b * s.H + h) * s.T + time);
    std::vector<double> p, d_weight;
    double delta = 0;
    for (int64_t u = 0; u <= time; ++u) {
      const int64_t k = slot(b, u, key_head), v = slot(b, u, key_head + s.Hkv);
      double score = 0, size = 0, product = 0;
      for (int d = 0; d < s.D; ++d) {
        score += scale * t.qkv.get(q + d) * t.qkv.get(k + d);
        size += scale * qkv(q + d) * qkv(k + d);
        product += std::fabs(t.d_out.get(o + d)) * qkv(v + d);
      }
      p.push_back(std::exp(score - lse));
      d_weight.push_back(product);
      delta += p.back() * product;
      r = std::max(r, 2 * (s.D + 8) * kU * size + static_cast<double>(s.T + s.D + 64) * kU);
      for (int d = 0; d < s.D; ++d) out[static_cast<size_t>(o + d)] += p.back() * qkv(v + d);
    }
    for (int64_t u = 0; u <= time; ++u) {
      const int64_t k = slot(b, u, key_head), v = slot(b, u, key_head + s.Hkv);
      const double weight = p[static_cast<size_t>(u)], ds = weight * (d_weight[static_cast<size_t>(u)] + delta);
      for (int d = 0; d < s.D; ++d) {
        at(q + d) += scale * ds * qkv(k + d);
        at(k + d) += scale * ds * qkv(q + d);
        at(v + d) += weight * std::fabs(t.d_out.get(o + d));
      }
    }
  }

  const Shape& s;
  const Tensors& t;
};

/// The largest difference of two backends' results in units of r times the terms' size.
double worst(const TestTensor& found, const TestTensor& expected, const std::vector<double>& size, double r) {
  double largest = 0;
  for (int64_t i = 0; i < found.elements(); ++i) {
    const double share = std::fabs(found.get(i) - expected.get(i)) / (size[static_cast<size_t>(i)] * r);
    if (!(share <= largest)) largest = std::isnan(share) ? 1e300 : share;
  }
  return largest;
}

}  // namespace

// Catches: a mask one off, a scale left out, a group that reads another KV head, the tail of a tile or of a block, old
// sums not brought to the new top, channels behind the 32nd lost, a sum whose order is the threads'.
TEST_CASE("plain attention, forward: the CPU's results within the roundings, the same bits in every order") {
  for (const Shape& s : kShapes) {
    CAPTURE(s.T, s.H, s.Hkv, s.D);
    const Tensors expected = on_cpu(s);
    const Sizes sizes(s, expected);
    Tensors first(s, DType::fp32);
    cuda_host::set_order({});
    cuda::plain_attention_forward(forward_of(s, first), {});
    REQUIRE(worst(first.out, expected.out, sizes.out, sizes.r) <= 2);
    for (int64_t i = 0; i < first.lse.elements(); ++i) {
      const double lse = expected.lse.get(i);
      REQUIRE(std::fabs(first.lse.get(i) - lse) <= 2 * (sizes.r + kU * std::fabs(lse)));
    }
    for (const cuda_host::Order order : cuda_host::kOrders) {
      cuda_host::set_order(order);
      Tensors again(s, DType::fp32);
      cuda::plain_attention_forward(forward_of(s, again), {});
      REQUIRE(same_bits(again.out, first.out));
      REQUIRE(same_bits(again.lse, first.lse));
      REQUIRE(again.guards_intact());
    }
  }
}

// Catches: as forward's, and delta of another row, a scale too many or too few, query heads of a group lost, doubled or
// out of order, queries behind the last one that reach keys, dq of keys behind the diagonal.
TEST_CASE("plain attention, backward: the CPU's gradients within the roundings, the same bits in every order") {
  for (const Shape& s : kShapes) {
    CAPTURE(s.T, s.H, s.Hkv, s.D);
    const Tensors expected = on_cpu(s);
    const Sizes sizes(s, expected);
    TestTensor first(DType::fp32, expected.d_qkv.elements());
    for (const cuda_host::Order order : cuda_host::kOrders) {
      cuda_host::set_order(order);
      Tensors found = expected;  // out and lse are the CPU's
      found.d_qkv = TestTensor(DType::fp32, found.d_qkv.elements());
      with_workspace(s, found, [](const AttentionBackward& op) { cuda::plain_attention_backward(op, {}); });
      REQUIRE(found.guards_intact());
      if (order.kind != cuda_host::Order::rising) REQUIRE(same_bits(found.d_qkv, first));
      first = std::move(found.d_qkv);
    }
    REQUIRE(worst(first, expected.d_qkv, sizes.d_qkv, 2 * sizes.r) <= 2);
  }
}

}  // namespace dither
