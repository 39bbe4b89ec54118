// Attention on the tensor cores, run on the host in every order of its threads: what the kernels add to the laws of
// tests/kernels/attention_test.cpp, which runs against them too. BF16 throughout.
#include <cmath>
#include <vector>

#include "kernels/cuda/kernels.h"
#include "tests/catch.h"
#include "tests/cuda_host/execution.h"
#include "tests/kernels/attention_case.h"

namespace dither {
namespace {

using Shape = AttentionShape;

struct Inputs {
  TestTensor qkv, d_out;
};

Inputs inputs_of(const Shape& s) {
  return {normal_tensor(DType::bf16, s.B * s.T * s.row(), 1), normal_tensor(DType::bf16, s.queries(), 2)};
}

using Results = AttentionTensors;

/// Forward and backward; nothing but the results was written, and all of them were.
Results attention(const Shape& s, const Inputs& in) {
  Results r(s, DType::bf16);
  r.qkv = TestTensor(in.qkv);
  r.d_out = TestTensor(in.d_out);
  cuda::attention_forward(forward_of(s, r), {});
  with_workspace(s, r, [](const AttentionBackward& op) { cuda::attention_backward(op, {}); });
  for (const TestTensor* t : {&r.out, &r.lse, &r.d_qkv}) {
    REQUIRE(t->guard_intact());
    bool finite = true;
    for (int64_t i = 0; i < t->elements(); ++i) finite &= std::isfinite(t->get(i));
    REQUIRE(finite);
  }
  return r;
}

void same_results(const Results& a, const Results& b) {
  REQUIRE(same_bits(a.out, b.out));
  REQUIRE(same_bits(a.lse, b.lse));
  REQUIRE(same_bits(a.d_qkv, b.d_qkv));
}

}  // namespace

// Catches: a barrier or a wait that is missing around the tiles or the way out through shared memory, places in a tile
// that two chunks share, for a head size alone.
TEST_CASE("attention on tensor cores: the same bits in every order of its threads") {
  const int D = GENERATE(32, 48, 64, 80, 96, 112, 128);
  const Shape s{.B = 1, .T = D == 32 ? 150 : 70, .H = 2, .Hkv = 1, .D = D};
  const Inputs in = inputs_of(s);
  cuda_host::set_order(cuda_host::kOrders[0]);
  const Results expected = attention(s, in);
  for (const cuda_host::Order order : cuda_host::kOrders) {
    cuda_host::set_order(order);
    CAPTURE(D, order.kind);
    same_results(attention(s, in), expected);
  }
}

// A short sequence is the beginning of a long one whose later tokens send no gradient: every sum has the same terms in
// the same order, but for exact zeros. Catches: at each edge of a tile, rows behind the last token read (NaN here) or
// let in, a last tile left out or met twice, tiles of a long sequence in another order.
TEST_CASE("attention on tensor cores: a short sequence has the bits of a long one's beginning") {
  cuda_host::set_order(cuda_host::kOrders[2]);
  const Shape whole{.B = 1, .T = 200, .H = 2, .Hkv = 1, .D = 32};
  const Inputs in = inputs_of(whole);
  for (const int64_t T : {1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 192, 199}) {
    Shape part = whole;
    part.T = T;
    Inputs zeros{in.qkv, in.d_out},
        begin{TestTensor(DType::bf16, T * part.row()), TestTensor(DType::bf16, part.queries())};
    for (int64_t i = part.queries(); i < whole.queries(); ++i) zeros.d_out.set(i, 0);
    for (int64_t i = 0; i < begin.qkv.elements(); ++i) begin.qkv.bf16()[i] = in.qkv.bf16()[i];
    for (int64_t i = 0; i < begin.d_out.elements(); ++i) begin.d_out.bf16()[i] = in.d_out.bf16()[i];
    const Results expected = attention(whole, zeros), found = attention(part, begin);
    CAPTURE(T);
    int64_t different = 0;  // by value: a sum of zeros may have another sign
    for (int64_t i = 0; i < found.out.elements(); ++i) different += found.out.get(i) != expected.out.get(i);
    for (int64_t i = 0; i < found.d_qkv.elements(); ++i) different += found.d_qkv.get(i) != expected.d_qkv.get(i);
    for (int64_t i = 0; i < T * whole.H; ++i) {
      different += found.lse.get(i) != expected.lse.get(i / T * whole.T + i % T);
    }
    REQUIRE(different == 0);
  }
}

// Catches: a head that reads another KV head, sequences or heads counted in another order.
TEST_CASE("attention on tensor cores: heads of a group with equal queries give equal results") {
  cuda_host::set_order(cuda_host::kOrders[1]);
  const int group = GENERATE(2, 4), D = 48;
  const Shape one{.B = 2, .T = 70, .H = 2, .Hkv = 2, .D = D}, all{.B = 2, .T = 70, .H = 2 * group, .Hkv = 2, .D = D};
  const Inputs in = inputs_of(one);
  Inputs repeated{TestTensor(DType::bf16, all.B * all.T * all.row()), TestTensor(DType::bf16, all.queries())};
  const int keys = 4 * D;  // elements of two key and two value heads
  for (int64_t n = 0; n < one.B * one.T; ++n) {
    Bf16* to = repeated.qkv.bf16() + n * all.row();
    for (int i = 0; i < all.H * D; ++i) {
      const int source = i / (group * D) * D + i % D;
      to[i] = in.qkv.bf16()[n * one.row() + source];
      repeated.d_out.bf16()[n * all.H * D + i] = in.d_out.bf16()[n * one.H * D + source];
    }
    for (int i = 0; i < keys; ++i) to[all.H * D + i] = in.qkv.bf16()[n * one.row() + one.H * D + i];
  }
  const Results single = attention(one, in), grouped = attention(all, repeated);
  int64_t different = 0;
  for (int64_t n = 0; n < one.B * one.T; ++n) {
    for (int i = 0; i < all.H * D; ++i) {
      const int source = i / (group * D) * D + i % D;
      different += grouped.out.get(n * all.H * D + i) != single.out.get(n * one.H * D + source);
      different += grouped.d_qkv.get(n * all.row() + i) != single.d_qkv.get(n * one.row() + source);
    }
  }
  REQUIRE(different == 0);
}

}  // namespace dither
