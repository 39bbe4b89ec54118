// Bytes and FLOP of operations against sums written out by hand; what becomes of them.
#include "kernels/operations/work.h"

#include "kernels/backend.h"
#include "src/benchmark/ceilings.h"
#include "tests/catch.h"

namespace dither {
namespace {

float g_memory[2];  // present, never read
const View kBf16{&g_memory[0], DType::bf16}, kFp32{&g_memory[0], DType::fp32}, kOther{&g_memory[1], DType::bf16};

}  // namespace

// Catches: an operand left out or counted twice, a type taken for another, an absent tensor counted, pairs behind the
// mask counted.
TEST_CASE("bytes of products: each operand once, FLOP: two a multiply-add, of the pairs that the mask leaves") {
  LinearForward forward{};
  forward.x = forward.y = kBf16;
  forward.weight = kBf16;
  forward.N = 10, forward.I = 16, forward.O = 24;
  REQUIRE(forward.bytes() == 2 * (10 * 16 + 16 * 24 + 10 * 24));
  forward.bias = forward.pre_activation = kBf16;
  REQUIRE(forward.bytes() == 2 * (10 * 16 + 16 * 24 + 2 * 10 * 24 + 24));
  REQUIRE(forward.flop() == 2 * 10 * 16 * 24);
  LinearWeightGradient gradient{};
  gradient.d_weight = kFp32;
  gradient.dy = gradient.x = kBf16;
  gradient.N = 10, gradient.I = 16, gradient.O = 24;
  REQUIRE(gradient.bytes() == 2 * 10 * (16 + 24) + 4 * 16 * 24);
  gradient.accumulate = true;
  REQUIRE(gradient.bytes() == 2 * 10 * (16 + 24) + 2 * 4 * 16 * 24);

  AttentionForward attention{};
  attention.out = kBf16;
  attention.qkv = kBf16;
  attention.lse = g_memory;
  attention.B = 3, attention.T = 4, attention.H = 6, attention.Hkv = 2, attention.D = 32;
  REQUIRE(attention.bytes() == 2 * 3 * 4 * (10 + 6) * 32 + 4 * 3 * 4 * 6);
  REQUIRE(attention.flop() == 2 * 2 * 32 * 3 * 6 * (1 + 2 + 3 + 4));
  AttentionBackward backward{};
  backward.d_out = backward.out = backward.qkv = backward.d_qkv = kBf16;
  backward.lse = g_memory;
  backward.B = 3, backward.T = 4, backward.H = 6, backward.Hkv = 2, backward.D = 32;
  REQUIRE(backward.bytes() == 2 * 3 * 4 * (2 * 10 + 2 * 6) * 32 + 4 * 3 * 4 * 6);
  REQUIRE(backward.flop() == 2.5 * attention.flop());
}

// Catches: as above, and a value head that is said to move although it stays where it is.
TEST_CASE("bytes of passes over activations: what is changed in place counts twice, what stays in place not at all") {
  ResidualNormForward norm{};
  norm.x = norm.h = kFp32;
  norm.r = norm.weight = norm.y = kBf16;
  norm.rstd = g_memory;
  norm.N = 10, norm.C = 16;
  REQUIRE(norm.bytes() == (4 + 4 + 2 + 2) * 10 * 16 + 4 * 10 + 2 * 16);
  norm.mean = g_memory;
  norm.bias = kBf16;
  REQUIRE(norm.bytes() == (4 + 4 + 2 + 2) * 10 * 16 + 2 * 4 * 10 + 2 * 2 * 16);

  RotaryForward rotary{};
  rotary.out = kBf16;
  rotary.qkv = kBf16;
  rotary.cos_sin = g_memory;
  rotary.N = 10, rotary.T = 5, rotary.H = 4, rotary.Hkv = 2, rotary.D = 32;
  REQUIRE(rotary.bytes() == 2 * 2 * 10 * 6 * 32 + 4 * 5 * 32);
  rotary.out = kOther;
  REQUIRE(rotary.bytes() == 2 * 2 * 10 * 8 * 32 + 4 * 5 * 32);

  CrossEntropy loss{};
  loss.logits = kBf16;
  loss.losses = g_memory;
  loss.N = 10, loss.V = 100, loss.Vp = 128;
  REQUIRE(loss.bytes() == 2 * 10 * 100 + 2 * 4 * 10);
  loss.gradient = true;
  REQUIRE(loss.bytes() == 2 * 10 * (100 + 128) + 2 * 4 * 10);

  EmbeddingBackward embedding{};
  embedding.d_token_table = kFp32;
  embedding.dy = kBf16;
  embedding.N = 10, embedding.T = 5, embedding.rows = 64, embedding.C = 8;
  REQUIRE(embedding.bytes() == 2 * 10 * 8 + 4 * 10 + 4 * 64 * 8);
  embedding.accumulate = true;  // the ten rows that tokens can name
  REQUIRE(embedding.bytes() == 2 * 10 * 8 + 4 * 10 + 2 * 4 * 10 * 8);
}

// Catches: a part of the state left out, a first sum that is said to be read.
TEST_CASE("bytes of updates: the state read and written, the gradient read") {
  AdamW mixed{};
  mixed.weight = kBf16;
  mixed.weight_extra = mixed.first_moment = mixed.second_moment = kFp32;
  mixed.gradient = kFp32;
  REQUIRE(mixed.bytes(1000) == 1000 * (2 * (2 + 4 + 4 + 4) + 4));
  AdamW pure{};
  pure.weight = pure.first_moment = pure.second_moment = kBf16;
  pure.gradient = kBf16;
  REQUIRE(pure.bytes(1000) == 1000 * 14);
  Accumulate sum{};
  sum.sum = kBf16;
  sum.addend = kFp32;
  REQUIRE(sum.bytes(1000) == 8000);
  sum.first = true;
  REQUIRE(sum.bytes(1000) == 6000);
  sum.contributions = 4;  // each is read, the sum is written once
  REQUIRE(sum.bytes(1000) == 18000);
}

// Catches: a floor of the sum of both times, the wrong ceiling named.
TEST_CASE("the floor is the longer of moving and computing") {
  constexpr Ceilings ceilings{.copy_bytes_per_second = 100, .product_flop_per_second = 1000};
  REQUIRE(ceilings.floor_seconds(200, 1000) == 2);
  REQUIRE(!ceilings.bound_by_product(200, 1000));
  REQUIRE(ceilings.floor_seconds(200, 5000) == 5);
  REQUIRE(ceilings.bound_by_product(200, 5000));
}

}  // namespace dither
