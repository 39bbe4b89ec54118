// The three products of a linear layer as operations: formulas, epilogues, the bias gradient, and what they refuse.
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/numerics/elementary.h"
#include "tests/kernels/operation_test.h"
#include "tests/kernels/tensors.h"
#include "tests/kernels/test_backend.h"

namespace dither {

namespace {

using Catch::Matchers::ContainsSubstring;

Backend& backend() {
  static const std::unique_ptr<Backend> made = test_backend(2);
  return *made;
}
/// The CPU's, whichever backend the others ask: some of its bits are its own.
Backend& cpu() {
  static const std::unique_ptr<Backend> made = make_cpu_backend(2);
  return *made;
}

struct Sizes {
  int64_t N, I, O;
};
const std::vector<Sizes> kSizes = {{1, 8, 8},     {3, 40, 72},     {17, 72, 40},
                                   {64, 96, 128}, {100, 136, 264}, {257, 200, 136}};

/// sum_j left(row, j) * right(column, j), in FP64: exact for the integers used here.
template <class Left, class Right>
std::vector<double> product(int64_t rows, int64_t columns, int64_t terms, const Left& left, const Right& right,
                            bool magnitudes = false) {
  std::vector<double> result;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      double sum = 0;
      for (int64_t j = 0; j < terms; ++j)
        sum += magnitudes ? std::fabs(left(r, j) * right(c, j)) : left(r, j) * right(c, j);
      result.push_back(sum);
    }
  }
  return result;
}

/// A layer with its gradient dy, all of one type.
struct Layer {
  Sizes s;
  TestTensor x, w, dy, bias;
  static Layer of_integers(Sizes s, DType type) {
    return {s, integer_tensor(type, s.N * s.I, 1, 4), integer_tensor(type, s.O * s.I, 2, 8),
            integer_tensor(type, s.N * s.O, 3, 4), integer_tensor(type, s.O, 4, 16)};
  }
  static Layer of_normals(Sizes s, DType type) {
    return {s, normal_tensor(type, s.N * s.I, 1), normal_tensor(type, s.O * s.I, 2, 0.1),
            normal_tensor(type, s.N * s.O, 3), normal_tensor(type, s.O, 4)};
  }
  std::vector<double> forward(bool magnitudes = false) const {
    return product(
        s.N, s.O, s.I, [&](int64_t n, int64_t i) { return x.get(n * s.I + i); },
        [&](int64_t o, int64_t i) { return w.get(o * s.I + i); }, magnitudes);
  }
  std::vector<double> input_gradient(bool magnitudes = false) const {
    return product(
        s.N, s.I, s.O, [&](int64_t n, int64_t o) { return dy.get(n * s.O + o); },
        [&](int64_t i, int64_t o) { return w.get(o * s.I + i); }, magnitudes);
  }
  std::vector<double> weight_gradient(bool magnitudes = false) const {
    return product(
        s.O, s.I, s.N, [&](int64_t o, int64_t n) { return dy.get(n * s.O + o); },
        [&](int64_t i, int64_t n) { return x.get(n * s.I + i); }, magnitudes);
  }
  LinearForward forward_into(View y) const {
    return {.y = y,
            .pre_activation = {},
            .x = x,
            .weight = w,
            .bias = {},
            .N = s.N,
            .I = s.I,
            .O = s.O,
            .epilogue = Epilogue::none};
  }
  LinearInputGradient input_gradient_into(View dx) const {
    return {.dx = dx, .dy = dy, .weight = w, .N = s.N, .I = s.I, .O = s.O};
  }
  LinearWeightGradient weight_gradient_into(View d_weight) const {
    return {.d_weight = d_weight,
            .d_bias = {},
            .dy = dy,
            .x = x,
            .N = s.N,
            .I = s.I,
            .O = s.O,
            .accumulate = false,
            .workspace = nullptr};
  }
};

/// |result - exact| <= one rounding of the result + (terms + 1) roundings of FP32 sums no larger than sum |a b|.
/// Half an ulp is at most 2^-8 of a BF16 and 2^-24 of an FP32; products of two BF16 are exact in FP32, those of FP32
/// are rounded or fused: at most as many roundings again.
void require_close(const TestTensor& result, const std::vector<double>& exact, const std::vector<double>& magnitudes,
                   int64_t terms) {
  const double last = result.type() == DType::bf16 ? 0x1p-8 : 0x1p-24;
  for (int64_t i = 0; i < result.elements(); ++i) {
    const auto at = static_cast<size_t>(i);
    const double sums = 2.0 * static_cast<double>(terms + 1) * 0x1p-24 * magnitudes[at];
    const double bound = last * (std::fabs(exact[at]) + sums) + sums;
    if (!(std::fabs(result.get(i) - exact[at]) <= bound)) {
      CAPTURE(i, result.get(i), exact[at], bound);
      FAIL("outside of the bound");
    }
  }
}

}  // namespace

// Catches: x or weight taken in the wrong order, a bias added after rounding or to the wrong column, an edge left out.
OPERATION_TEST(linear_forward, "integers give the exact sums, rounded once") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  for (const Sizes& s : kSizes) {
    const Layer layer = Layer::of_integers(s, type);
    std::vector<double> expected = layer.forward();
    TestTensor y(type, s.N * s.O);
    backend().linear_forward(layer.forward_into(y), {});
    REQUIRE(same_bits(y, tensor_of(type, expected)));
    REQUIRE(y.guard_intact());

    LinearForward with_bias = layer.forward_into(y);
    with_bias.bias = layer.bias;
    backend().linear_forward(with_bias, {});
    for (int64_t i = 0; i < y.elements(); ++i) expected[static_cast<size_t>(i)] += layer.bias.get(i % s.O);
    REQUIRE(same_bits(y, tensor_of(type, expected)));
  }
}

// Catches: sums kept in BF16, operands rounded once more, truncation instead of rounding.
OPERATION_TEST(linear_forward, "reals stay within the roundings of the formula") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  for (const Sizes& s : kSizes) {
    const Layer layer = Layer::of_normals(s, type);
    TestTensor y(type, s.N * s.O);
    backend().linear_forward(layer.forward_into(y), {});
    require_close(y, layer.forward(), layer.forward(true), s.I);
  }
}

/// y = gelu(pre_activation), computed and rounded as the CPU does.
TestTensor gelu_of(const TestTensor& pre_activation) {
  TestTensor y(pre_activation.type(), pre_activation.elements());
  for (int64_t i = 0; i < y.elements(); ++i) y.set(i, gelu(static_cast<float>(pre_activation.get(i))));
  return y;
}

// Catches: GELU of the unrounded sum (backward reads the rounded one), GELU before the bias, another GELU.
OPERATION_TEST(linear_forward, "on the CPU the GELU epilogue is linear followed by GELU, bit for bit") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  for (const Sizes& s : kSizes) {
    const Layer layer = Layer::of_normals(s, type);
    TestTensor plain(type, s.N * s.O), pre_activation(type, s.N * s.O), y(type, s.N * s.O);
    LinearForward op = layer.forward_into(plain);
    op.bias = layer.bias;
    cpu().linear_forward(op, {});
    op.y = y;
    op.pre_activation = pre_activation;
    op.epilogue = Epilogue::gelu;
    cpu().linear_forward(op, {});
    REQUIRE(same_bits(pre_activation, plain));
    REQUIRE(same_bits(y, gelu_of(pre_activation)));
  }
}

// x is made of multiples of 1/128, so that sums s are exact in FP32, are rounded in BF16, and meet GELU where it bends.
// A product may apply GELU to s or to pre_activation = RN(s), half an ulp or 2^-8 |s| away, where |gelu'| < 1.13. Its
// tanh may be the device's, relative error 2^-11 (PTX's tanh.approx): 2^-12 |s| in 0.5 s (1 + tanh); ours errs by less
// than 2^-20 max(1, |s|). Then y is rounded. FP32 leaves no such choice: there GELU is the CPU's.
// Catches: GELU before the bias, of the product without it, or twice; pre_activation not written, or already GELU's.
OPERATION_TEST(linear_forward, "the GELU epilogue keeps the rounded sum and is its GELU within the roundings") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const bool biased = GENERATE(true, false);
  for (const Sizes& s : kSizes) {
    Layer layer = Layer::of_integers(s, type);
    for (int64_t i = 0; i < layer.x.elements(); ++i) layer.x.set(i, layer.x.get(i) / 128);
    std::vector<double> sums = layer.forward();
    if (biased) {
      for (size_t i = 0; i < sums.size(); ++i) sums[i] += layer.bias.get(static_cast<int64_t>(i) % s.O);
    }
    TestTensor pre_activation(type, s.N * s.O), y(type, s.N * s.O);
    LinearForward op = layer.forward_into(y);
    if (biased) op.bias = layer.bias;
    op.pre_activation = pre_activation;
    op.epilogue = Epilogue::gelu;
    backend().linear_forward(op, {});
    REQUIRE(same_bits(pre_activation, tensor_of(type, sums)));
    REQUIRE(pre_activation.guard_intact());
    REQUIRE(y.guard_intact());
    if (type == DType::fp32) {
      REQUIRE(same_bits(y, gelu_of(pre_activation)));
      continue;
    }
    for (int64_t i = 0; i < y.elements(); ++i) {
      const double x = sums[static_cast<size_t>(i)], u = std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x);
      const double exact = 0.5 * x * (1 + std::tanh(u));
      const double before = 1.13 * 0x1p-8 * std::fabs(x) + 0x1p-12 * std::fabs(x) + 0x1p-20;
      const double bound = before + 0x1p-8 * (std::fabs(exact) + before);
      CAPTURE(i, x, y.get(i), exact, bound);
      REQUIRE(std::fabs(y.get(i) - exact) <= bound);
    }
  }
}

// Catches: the weight used as its transpose, a sum over the wrong index.
OPERATION_TEST(linear_input_gradient, "integers give the exact sums, reals stay within the roundings") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  for (const Sizes& s : kSizes) {
    TestTensor dx(type, s.N * s.I);
    const Layer integers = Layer::of_integers(s, type);
    backend().linear_input_gradient(integers.input_gradient_into(dx), {});
    REQUIRE(same_bits(dx, tensor_of(type, integers.input_gradient())));
    REQUIRE(dx.guard_intact());
    const Layer reals = Layer::of_normals(s, type);
    backend().linear_input_gradient(reals.input_gradient_into(dx), {});
    require_close(dx, reals.input_gradient(), reals.input_gradient(true), s.O);
  }
}

// Catches: x and dy exchanged, a BF16 result accumulated in BF16, an FP32 gradient of BF16 operands rounded to BF16.
OPERATION_TEST(linear_weight_gradient, "integers give the exact sums, reals stay within the roundings") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const auto gradient_type = GENERATE(DType::bf16, DType::fp32);
  for (const Sizes& s : kSizes) {
    TestTensor d_weight(gradient_type, s.O * s.I);
    const Layer integers = Layer::of_integers(s, type);
    backend().linear_weight_gradient(integers.weight_gradient_into(d_weight), {});
    REQUIRE(same_bits(d_weight, tensor_of(gradient_type, integers.weight_gradient())));
    REQUIRE(d_weight.guard_intact());
    const Layer reals = Layer::of_normals(s, type);
    backend().linear_weight_gradient(reals.weight_gradient_into(d_weight), {});
    require_close(d_weight, reals.weight_gradient(), reals.weight_gradient(true), s.N);
  }
}

// Catches: a chunk that overwrites, a chunk added twice, rounding between chunks.
OPERATION_TEST(linear_weight_gradient, "accumulated over two halves of the tokens it is the gradient of the whole") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const Sizes s{100, 136, 264};
  const Layer layer = Layer::of_integers(s, type);
  TestTensor d_weight = filled_tensor(DType::fp32, s.O * s.I, 0), d_bias = filled_tensor(DType::fp32, s.O, 0);
  TestTensor workspace(DType::fp32, 2 * s.O);
  for (const int64_t first : {0, 37}) {
    LinearWeightGradient op = layer.weight_gradient_into(d_weight);
    op.d_bias = d_bias;
    op.workspace = workspace.fp32();
    op.dy = op.dy.at(first * s.O);
    op.x = op.x.at(first * s.I);
    op.N = first == 0 ? 37 : s.N - 37;
    op.accumulate = true;
    backend().linear_weight_gradient(op, {});
  }
  REQUIRE(same_bits(d_weight, tensor_of(DType::fp32, layer.weight_gradient())));
  for (int64_t o = 0; o < s.O; ++o) {
    double sum = 0;
    for (int64_t n = 0; n < s.N; ++n) sum += layer.dy.get(n * s.O + o);
    REQUIRE(d_bias.get(o) == sum);
  }
}

/// The bias gradient of `layer` by `asked`; accumulated onto zeros, which changes no bit of it.
TestTensor bias_gradient(Backend& asked, const Layer& layer, DType type, bool accumulate) {
  const Sizes& s = layer.s;
  TestTensor d_weight = filled_tensor(type, s.O * s.I, 0), d_bias = filled_tensor(type, s.O, 0);
  LinearWeightGradient op = layer.weight_gradient_into(d_weight);
  op.d_bias = d_bias;
  op.accumulate = accumulate;
  REQUIRE(op.workspace_bytes() == (s.N + 63) / 64 * s.O * 4);
  TestTensor workspace(DType::fp32, op.workspace_bytes() / 4);
  op.workspace = workspace.fp32();
  asked.linear_weight_gradient(op, {});
  REQUIRE(d_bias.guard_intact());
  REQUIRE(workspace.guard_intact());
  return d_bias;
}

/// The same by blocks of 64 tokens in FP32, rounded once.
TestTensor bias_gradient_by_blocks(const Layer& layer, DType type) {
  const Sizes& s = layer.s;
  TestTensor d_bias(type, s.O);
  for (int64_t o = 0; o < s.O; ++o) {
    float sum = 0;
    for (int64_t first = 0; first < s.N; first += 64) {
      float block = 0;
      for (int64_t n = first; n < std::min(first + 64, s.N); ++n) {
        block += static_cast<float>(layer.dy.get(n * s.O + o));
      }
      sum += block;
    }
    d_bias.set(o, sum);
  }
  return d_bias;
}

const std::vector<int64_t> kTokens = {1, 3, 17, 64, 100, 257, 2200};  // 2200: more than 32 blocks

// Wherever it is a pass of its own: always on the CPU; on CUDA for FP32 operands and for what is accumulated.
// Catches: sums in BF16, one running sum over all tokens, blocks of another size, a block whose last rows are lost.
OPERATION_TEST(linear_weight_gradient, "the bias gradient adds blocks of 64 tokens, then the blocks") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  for (const int64_t N : kTokens) {
    const Layer layer = Layer::of_normals({N, 8, 328}, type);
    for (const DType gradient : {DType::bf16, DType::fp32}) {
      const TestTensor expected = bias_gradient_by_blocks(layer, gradient);
      REQUIRE(same_bits(bias_gradient(cpu(), layer, gradient, false), expected));
      if (type == DType::fp32) REQUIRE(same_bits(bias_gradient(backend(), layer, gradient, false), expected));
      if (gradient == DType::fp32) REQUIRE(same_bits(bias_gradient(backend(), layer, gradient, true), expected));
    }
  }
}

// N terms are added in FP32 in some order: fewer than N roundings of partial sums no larger than sum |dy|; one more in
// the end. Catches: sums in BF16, a token left out or taken twice, the gradient of another column.
OPERATION_TEST(linear_weight_gradient, "the bias gradient is the sum over the tokens within its roundings") {
  const auto gradient = GENERATE(DType::bf16, DType::fp32);
  for (const int64_t N : kTokens) {
    const Layer layer = Layer::of_normals({N, 8, 328}, DType::bf16);
    const TestTensor d_bias = bias_gradient(backend(), layer, gradient, false);
    for (int64_t o = 0; o < layer.s.O; ++o) {
      double exact = 0, magnitudes = 0;
      for (int64_t n = 0; n < N; ++n) {
        exact += layer.dy.get(n * layer.s.O + o);
        magnitudes += std::fabs(layer.dy.get(n * layer.s.O + o));
      }
      const double sums = static_cast<double>(N) * 0x1p-24 * magnitudes;
      const double last = gradient == DType::bf16 ? 0x1p-8 : 0x1p-24;
      REQUIRE(std::fabs(d_bias.get(o) - exact) <= sums + last * (std::fabs(exact) + sums));
    }
  }
}

// The layer is linear in x and in W, so a finite difference is exact: <dy, (x + e) W^T - x W^T> = <dx, e>. Integers
// below 2^24 make every step exact in FP32, and FP64 adds them exactly.
// Catches: gradients of another function than forward's.
OPERATION_TEST(linear_input_gradient, "both gradients are the exact finite differences of forward") {
  const Sizes s{17, 72, 40};
  const Layer layer = Layer::of_integers(s, DType::fp32);
  const auto moved = [&](const TestTensor& tensor, const TestTensor& by) {
    TestTensor sum = tensor;
    for (int64_t i = 0; i < sum.elements(); ++i) sum.set(i, tensor.get(i) + by.get(i));
    return sum;
  };
  const auto loss = [&](const TestTensor& x, const TestTensor& w) {
    TestTensor y(DType::fp32, s.N * s.O);
    LinearForward op = layer.forward_into(y);
    op.x = x;
    op.weight = w;
    backend().linear_forward(op, {});
    double sum = 0;
    for (int64_t i = 0; i < y.elements(); ++i) sum += layer.dy.get(i) * y.get(i);
    return sum;
  };
  const auto inner = [](const TestTensor& a, const TestTensor& b) {
    double sum = 0;
    for (int64_t i = 0; i < a.elements(); ++i) sum += a.get(i) * b.get(i);
    return sum;
  };
  TestTensor dx(DType::fp32, s.N * s.I), d_weight(DType::fp32, s.O * s.I);
  backend().linear_input_gradient(layer.input_gradient_into(dx), {});
  backend().linear_weight_gradient(layer.weight_gradient_into(d_weight), {});
  const TestTensor x_step = integer_tensor(DType::fp32, s.N * s.I, 5, 3),
                   w_step = integer_tensor(DType::fp32, s.O * s.I, 6, 3);
  const double here = loss(layer.x, layer.w);
  REQUIRE(loss(moved(layer.x, x_step), layer.w) - here == inner(dx, x_step));
  REQUIRE(loss(layer.x, moved(layer.w, w_step)) - here == inner(d_weight, w_step));
}

// Catches: a demand that was forgotten, or whose message names another value than the one it looked at.
TEST_CASE("linear layers refuse what no backend computes and say why") {
  const Sizes s{4, 16, 24};
  const Layer layer = Layer::of_integers(s, DType::bf16);
  TestTensor y(DType::bf16, s.N * s.O), wide(DType::fp32, s.O * s.I), dx(DType::bf16, s.N * s.I),
      dw(DType::bf16, s.O * s.I);

  LinearForward forward = layer.forward_into(y);
  forward.N = 0;
  REQUIRE_THROWS_WITH(backend().linear_forward(forward, {}), "linear_forward: N is 0, needs at least 1");
  forward = layer.forward_into(y);
  forward.I = 12;
  REQUIRE_THROWS_WITH(backend().linear_forward(forward, {}), "linear_forward: I is 12, needs a multiple of 8");
  forward = layer.forward_into(y);
  forward.O = 4;
  REQUIRE_THROWS_WITH(backend().linear_forward(forward, {}), "linear_forward: O is 4, needs a multiple of 8");
  REQUIRE_THROWS_WITH(backend().linear_forward(layer.forward_into(wide), {}), "linear_forward: y is fp32, needs bf16");
  forward = layer.forward_into(y);
  forward.weight = wide;
  REQUIRE_THROWS_WITH(backend().linear_forward(forward, {}), "linear_forward: weight is fp32, needs bf16");
  forward = layer.forward_into(y);
  forward.bias = wide;
  REQUIRE_THROWS_WITH(backend().linear_forward(forward, {}), "linear_forward: bias is fp32, needs bf16");
  forward = layer.forward_into(y);
  forward.x = {};
  REQUIRE_THROWS_WITH(backend().linear_forward(forward, {}),
                      "linear_forward: x is absent, needs a BF16 or FP32 tensor");
  forward = layer.forward_into(y);
  forward.epilogue = Epilogue::gelu;
  REQUIRE_THROWS_WITH(backend().linear_forward(forward, {}),
                      ContainsSubstring("linear_forward: pre_activation is absent"));
  forward.pre_activation = y;
  REQUIRE_THROWS_WITH(
      backend().linear_forward(forward, {}),
      "linear_forward: the distance in bytes from y to pre_activation is 0, needs tensors that do not overlap");
  forward.pre_activation = dw;
  forward.epilogue = Epilogue::none;
  REQUIRE_THROWS_WITH(backend().linear_forward(forward, {}),
                      ContainsSubstring("pre_activation is present, needs Epilogue::gelu"));

  REQUIRE_THROWS_WITH(backend().linear_input_gradient(layer.input_gradient_into(wide), {}),
                      "linear_input_gradient: dx is fp32, needs bf16");
  LinearInputGradient input = layer.input_gradient_into(dx);
  input.dx = View{const_cast<void*>(input.dy.data), DType::bf16};
  REQUIRE_THROWS_WITH(backend().linear_input_gradient(input, {}), ContainsSubstring("from dx to dy is 0"));

  LinearWeightGradient weight = layer.weight_gradient_into(dw);
  weight.accumulate = true;
  REQUIRE_THROWS_WITH(backend().linear_weight_gradient(weight, {}),
                      "linear_weight_gradient: d_weight to accumulate in is bf16, needs fp32");
  weight = layer.weight_gradient_into(dw);
  weight.d_bias = wide;
  REQUIRE_THROWS_WITH(backend().linear_weight_gradient(weight, {}),
                      "linear_weight_gradient: d_bias is fp32, needs bf16");
  weight.d_bias = y;
  REQUIRE_THROWS_WITH(backend().linear_weight_gradient(weight, {}),
                      ContainsSubstring("linear_weight_gradient: workspace is absent"));
}

}  // namespace dither
