// Attention's forward kernel for Hopper, and beside it the one for other devices at the same head sizes, which the laws
// of tests/kernels/attention_test.cpp do not reach on a host that takes itself for a Hopper: run directly, in every
// order of their threads.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/attention_hopper.h"
#include "kernels/cuda/kernels.h"
#include "tests/catch.h"
#include "tests/cuda_host/execution.h"
#include "tests/kernels/attention_case.h"

namespace dither {
namespace {

using Shape = AttentionShape;

constexpr double kU = 0x1p-24;

struct Results {
  TestTensor out, lse;
};

template <class Forward>
Results run(const Shape& s, const TestTensor& qkv, const Forward& forward) {
  Results r{TestTensor(qkv.type(), s.B * s.T * s.H * s.D), TestTensor(DType::fp32, s.B * s.H * s.T)};
  forward(AttentionForward{.out = r.out,
                           .lse = r.lse.fp32(),
                           .qkv = qkv,
                           .B = s.B,
                           .T = s.T,
                           .H = s.H,
                           .Hkv = s.Hkv,
                           .D = s.D,
                           .scale = s.scale()});
  REQUIRE(r.out.guard_intact());
  REQUIRE(r.lse.guard_intact());
  return r;
}

Results run_hopper(const Shape& s, const TestTensor& qkv) {
  return run(s, qkv, [](const AttentionForward& op) { cuda::hopper_attention_forward(op, {}); });
}
Results run_mma(const Shape& s, const TestTensor& qkv) {
  return run(s, qkv, [](const AttentionForward& op) { cuda::mma_attention_forward(op, {}); });
}
Results run_cpu(const Shape& s, const TestTensor& qkv) {
  const auto backend = make_cpu_backend(1);
  return run(s, qkv, [&](const AttentionForward& op) { backend->attention_forward(op, {}); });
}

/// The same values in FP32; those of the value heads by their size where `sizes`.
TestTensor widened(const Shape& s, const TestTensor& qkv, bool sizes) {
  TestTensor wide(DType::fp32, qkv.elements());
  for (int64_t i = 0; i < qkv.elements(); ++i) {
    const bool value = i % s.row() >= int64_t{s.H + s.Hkv} * s.D;
    wide.set(i, sizes && value ? std::fabs(qkv.get(i)) : qkv.get(i));
  }
  return wide;
}

/// scale * sum |q k| of any query and key: at most the product of the longest of each.
double largest_score_size(const Shape& s, const TestTensor& qkv) {
  double query = 0, key = 0;
  for (int64_t i = 0; i < qkv.elements(); i += s.D) {
    double square = 0;
    for (int64_t d = 0; d < s.D; ++d) square += qkv.get(i + d) * qkv.get(i + d);
    const int64_t head = i % s.row() / s.D;
    double& longest = head < s.H ? query : key;
    if (head < s.H + s.Hkv) longest = std::max(longest, square);
  }
  return static_cast<double>(s.scale()) * std::sqrt(query * key);
}

/// Against the CPU's FP32 attention of the same values. Bounds: the opening of tests/kernels/attention_test.cpp, with
/// the largest |q||k| for sum |q k|, and the CPU's own error, which has no v, on top.
void require_near_cpu(const Shape& s, const TestTensor& qkv, const Results& found) {
  const Results expected = run_cpu(s, widened(s, qkv, false)), size = run_cpu(s, widened(s, qkv, true));
  const double score = 2 * (s.D + 8) * kU * largest_score_size(s, qkv) + static_cast<double>(s.T + s.D + 64) * kU;
  double worst = 0;
  for (int64_t i = 0; i < found.out.elements(); ++i) {
    const double bound = (2 * score + 0x1p-8) * size.out.get(i) + std::fabs(expected.out.get(i)) * 0x1p-8 + 1e-30;
    const double share = std::fabs(found.out.get(i) - expected.out.get(i)) / bound;
    if (!(share <= worst)) worst = std::isnan(share) ? 1e300 : share;
  }
  REQUIRE(worst <= 1);
  worst = 0;
  for (int64_t i = 0; i < found.lse.elements(); ++i) {
    const double bound = 2 * score + 2 * kU * std::fabs(expected.lse.get(i));
    const double share = std::fabs(found.lse.get(i) - expected.lse.get(i)) / bound;
    if (!(share <= worst)) worst = std::isnan(share) ? 1e300 : share;
  }
  REQUIRE(worst <= 1);
}

bool same_results(const Results& a, const Results& b) { return same_bits(a.out, b.out) && same_bits(a.lse, b.lse); }

}  // namespace

// Catches: a descriptor, a box or a fragment that names other elements; a mask one off; a stage or a parity mixed up
// from the third tile on; a group that reads another KV head; o not rescaled when the top moves.
TEST_CASE("attention on Hopper agrees with the CPU for both head sizes, every group and tail") {
  const Shape s =
      GENERATE(Shape{2, 1, 2, 2, 64}, Shape{1, 63, 2, 1, 128}, Shape{1, 64, 4, 1, 64}, Shape{2, 65, 2, 2, 128},
               Shape{1, 130, 2, 1, 64}, Shape{1, 257, 4, 1, 64}, Shape{1, 257, 1, 1, 128}, Shape{1, 400, 2, 1, 64});
  cuda_host::set_order(cuda_host::kOrders[2]);
  CAPTURE(s.T, s.H, s.Hkv, s.D);
  const TestTensor qkv = normal_tensor(DType::bf16, s.B * s.T * s.row(), 1, s.T == 400 ? 4 : 1);
  require_near_cpu(s, qkv, run_hopper(s, qkv));
}

// Catches: whatever separates the two kernels' head sizes, that of the other devices being wrong at these.
TEST_CASE("attention for other devices agrees with the CPU at Hopper's head sizes") {
  const Shape s = GENERATE(Shape{2, 65, 4, 1, 64}, Shape{1, 130, 4, 2, 128}, Shape{1, 257, 2, 1, 64});
  cuda_host::set_order(cuda_host::kOrders[2]);
  CAPTURE(s.T, s.H, s.Hkv, s.D);
  const TestTensor qkv = normal_tensor(DType::bf16, s.B * s.T * s.row(), 1);
  require_near_cpu(s, qkv, run_mma(s, qkv));
}

// Catches: a wait, an arrival, a fence or a barrier that is missing in either kernel; a place of the ring that is
// filled again too early; warps that share a part of the way out.
TEST_CASE("attention on Hopper and elsewhere: the same bits in every order of its threads") {
  const Shape s = GENERATE(Shape{1, 300, 1, 1, 64}, Shape{1, 140, 1, 1, 128});
  const TestTensor qkv = normal_tensor(DType::bf16, s.B * s.T * s.row(), 1);
  cuda_host::set_order(cuda_host::kOrders[0]);
  const Results hopper = run_hopper(s, qkv), mma = run_mma(s, qkv);
  for (const cuda_host::Order order : cuda_host::kOrders) {
    cuda_host::set_order(order);
    CAPTURE(s.D, order.kind);
    REQUIRE(same_results(run_hopper(s, qkv), hopper));
    REQUIRE(same_results(run_mma(s, qkv), mma));
  }
}

// Catches: a map that lets the rows behind a sequence's last one be those of the next, whose NaN times 0 is NaN; a
// key that only a later query may see.
TEST_CASE("attention on Hopper: NaN in the next sequence, or another later token, changes no bit") {
  cuda_host::set_order(cuda_host::kOrders[1]);
  const Shape s{.B = 2, .T = 70, .H = 2, .Hkv = 1, .D = 64};
  TestTensor qkv = normal_tensor(DType::bf16, s.B * s.T * s.row(), 1);
  const Results expected = run_hopper(s, qkv);
  for (int64_t i = s.T * s.row(); i < qkv.elements(); ++i) qkv.set(i, std::nan(""));
  const Results beside = run_hopper(s, qkv);
  for (int64_t i = 0; i < s.T * s.H * s.D; ++i) REQUIRE(beside.out.get(i) == expected.out.get(i));
  for (int64_t i = 0; i < s.H * s.T; ++i) REQUIRE(beside.lse.get(i) == expected.lse.get(i));
  REQUIRE(std::isnan(beside.out.get(s.T * s.H * s.D)));  // the change is alive
  const int64_t cut = 33;
  for (int64_t i = cut * s.row(); i < s.T * s.row(); ++i) qkv.set(i, -3 * qkv.get(i) + 1);
  const Results after = run_hopper(s, qkv);
  for (int64_t i = 0; i < cut * s.H * s.D; ++i) REQUIRE(after.out.get(i) == expected.out.get(i));
  REQUIRE(after.out.get(cut * s.H * s.D) != expected.out.get(cut * s.H * s.D));
}

// Catches: a choice that is never made, or made for head sizes that the kernel has not.
TEST_CASE("attention_forward takes the kernel for Hopper where device and head size fit") {
  cuda_host::set_order(cuda_host::kOrders[0]);
  const int D = GENERATE(32, 64, 128);
  const Shape s{.B = 1, .T = 140, .H = 1, .Hkv = 1, .D = D};
  const TestTensor qkv = normal_tensor(DType::bf16, s.B * s.T * s.row(), 1);
  const Results chosen = run(s, qkv, [](const AttentionForward& op) { cuda::attention_forward(op, {}); });
  const Results mma = run_mma(s, qkv);
  REQUIRE(same_results(chosen, D == 32 ? mma : run_hopper(s, qkv)));
  REQUIRE(same_results(chosen, mma) == (D == 32));  // the two kernels can be told apart: their tiles differ
}

}  // namespace dither
