// The three products of a linear layer as operations: formulas, epilogues, the bias gradient, and what they refuse.
#include <cmath>

#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/numerics/elementary.h"
#include "tests/kernels/operation_test.h"
#include "tests/kernels/tensors.h"

namespace dither {

namespace {

using Catch::Matchers::ContainsSubstring;

Backend& backend() {
  static const std::unique_ptr<Backend> cpu = make_cpu_backend(2);
  return *cpu;
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

// Catches: GELU of the unrounded sum (backward reads the rounded one), GELU before the bias, another GELU.
OPERATION_TEST(linear_forward, "the GELU epilogue is linear followed by GELU, bit for bit") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  for (const Sizes& s : kSizes) {
    const Layer layer = Layer::of_normals(s, type);
    TestTensor plain(type, s.N * s.O), pre_activation(type, s.N * s.O), y(type, s.N * s.O), expected(type, s.N * s.O);
    LinearForward op = layer.forward_into(plain);
    op.bias = layer.bias;
    backend().linear_forward(op, {});
    op.y = y;
    op.pre_activation = pre_activation;
    op.epilogue = Epilogue::gelu;
    backend().linear_forward(op, {});
    for (int64_t i = 0; i < y.elements(); ++i) expected.set(i, gelu(static_cast<float>(plain.get(i))));
    REQUIRE(same_bits(pre_activation, plain));
    REQUIRE(same_bits(y, expected));
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

// Catches: sums in BF16, one running sum over all tokens, blocks of another size, a block whose last rows are lost.
OPERATION_TEST(linear_weight_gradient, "the bias gradient adds blocks of 64 tokens, then the blocks") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const auto gradient_type = GENERATE(DType::bf16, DType::fp32);
  for (const int64_t N : {1, 3, 17, 64, 100, 257}) {
    const Sizes s{N, 8, 328};
    const Layer layer = Layer::of_normals(s, type);
    TestTensor d_weight(gradient_type, s.O * s.I), d_bias(gradient_type, s.O), expected(gradient_type, s.O);
    LinearWeightGradient op = layer.weight_gradient_into(d_weight);
    op.d_bias = d_bias;
    REQUIRE(op.workspace_bytes() == (N + 63) / 64 * s.O * 4);
    TestTensor workspace(DType::fp32, op.workspace_bytes() / 4);
    op.workspace = workspace.fp32();
    backend().linear_weight_gradient(op, {});
    for (int64_t o = 0; o < s.O; ++o) {
      float sum = 0;
      for (int64_t first = 0; first < N; first += 64) {
        float block = 0;
        for (int64_t n = first; n < std::min(first + 64, N); ++n)
          block += static_cast<float>(layer.dy.get(n * s.O + o));
        sum += block;
      }
      expected.set(o, sum);
    }
    REQUIRE(same_bits(d_bias, expected));
    REQUIRE(d_bias.guard_intact());
    REQUIRE(workspace.guard_intact());
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
