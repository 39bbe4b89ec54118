// The matrix products of the CUDA backend over the host's stand-in for cuBLASLt: which algorithm is chosen, written
// down, taken over, measured and refused. Formulas and roundings are tests/kernels/linear_test.cpp's.
#include "kernels/cuda/matrix_product.h"

#include <functional>

#include "base/error.h"
#include "kernels/numerics/elementary.h"
#include "tests/catch.h"
#include "tests/cuda_host/cublaslt.h"
#include "tests/kernels/tensors.h"

namespace dither {
namespace {

using Catch::Matchers::ContainsSubstring;
using cuda::MatrixProducts;

// The stand-in's algorithms, by their tiles, and the words by which it knows one.
constexpr int kBestTile = 24, kSplitTile = 18, kSecondTile = 15;
const std::string kSecondWord = "00000000d17e5004", kBestWord = "00000000d17e5001", kForbiddenWord = "00000000d17e5000";

constexpr double kDelay =
    0.03;  // seconds: far more than any product here takes, also with sanitizers on a busy machine

struct Products {
  TestTensor workspace{DType::fp32, MatrixProducts::kWorkspaceBytes / 4};
  MatrixProducts products{workspace.fp32()};
  MatrixProducts* operator->() { return &products; }
};

/// A layer of integers, so that every sum is exact and results do not depend on the algorithm.
struct Layer {
  int64_t N, I, O;
  DType type;
  TestTensor x{integer_tensor(type, N*I, 1, 4)}, w{integer_tensor(type, O*I, 2, 8)};
  TestTensor dy{integer_tensor(type, N*O, 3, 4)}, bias{integer_tensor(type, O, 4, 16)};

  Layer(int64_t n, int64_t i, int64_t o, DType stored) : N(n), I(i), O(o), type(stored) {}

  double sum(int64_t n, int64_t o) const {
    double result = 0;
    for (int64_t i = 0; i < I; ++i) result += x.get(n * I + i) * w.get(o * I + i);
    return result;
  }
  TestTensor y() const {
    TestTensor result(type, N * O);
    for (int64_t at = 0; at < N * O; ++at) result.set(at, sum(at / O, at % O));
    return result;
  }
  TestTensor d_weight(DType stored, double before = 0) const {
    TestTensor result(stored, O * I);
    for (int64_t at = 0; at < O * I; ++at) {
      double total = before;
      for (int64_t n = 0; n < N; ++n) total += dy.get(n * O + at / I) * x.get(n * I + at % I);
      result.set(at, total);
    }
    return result;
  }
  LinearForward forward(View out) const {
    return {.y = out,
            .pre_activation = {},
            .x = x,
            .weight = w,
            .bias = {},
            .N = N,
            .I = I,
            .O = O,
            .epilogue = Epilogue::none};
  }
  LinearWeightGradient weight_gradient(View out) const {
    return {.d_weight = out,
            .d_bias = {},
            .dy = dy,
            .x = x,
            .N = N,
            .I = I,
            .O = O,
            .accumulate = false,
            .workspace = nullptr};
  }
};

int count_of(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}
bool has(const std::string& text, const std::string& part) { return count_of(text, part) > 0; }
std::string tile(int id) { return "\"tile\": " + std::to_string(id) + ","; }
std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

bool is_best(int its_tile, bool /*fused*/) { return its_tile == kBestTile; }
bool is_fused(int /*tile*/, bool fused) { return fused; }
bool is_unfused(int /*tile*/, bool fused) { return !fused; }

std::string complaint(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

// The first candidate rounds its partial sums to BF16: integers above 256 show it.
// Catches: the first candidate whatever it is; only the mask of the preference; split K refused altogether.
TEST_CASE("the choice is the first candidate that adds its sums in FP32") {
  for (const DType type : {DType::bf16, DType::fp32}) {
    const Layer layer(33, 128, 40, type);
    Products products;
    TestTensor y(type, layer.N * layer.O);
    products->forward(layer.forward(y), {});
    CHECK(same_bits(y, layer.y()));
    CHECK(y.guard_intact());
    CHECK(count_of(products->algorithms(), "\"tile\"") == 1);
    CHECK(has(products->algorithms(), tile(kBestTile)));
    CHECK(has(products->algorithms(), "\"split_k\": 1,"));
  }
}

// Catches: an algorithm for whole tensors run on a chunk (the library refuses that), one choice for both.
TEST_CASE("a chunk that begins at 16 bytes has a choice of its own") {
  const Layer layer(17, 8, 40, DType::bf16);
  Products products;
  TestTensor y(DType::bf16, layer.N * layer.O);
  products->forward(layer.forward(y), {});
  LinearForward chunk = layer.forward(y.at(layer.O));
  chunk.x = chunk.x.at(layer.I);  // 16 bytes
  chunk.N = layer.N - 1;
  products->forward(chunk, {});
  CHECK(same_bits(y, layer.y()));
  const std::string table = products->algorithms();
  CHECK(count_of(table, "\"tile\"") == 2);
  CHECK(has(table, "\"alignment\": 256,"));
  CHECK(has(table, "\"alignment\": 16,"));
  CHECK(has(table, tile(kSplitTile)));  // splits K in four, in FP32: allowed
}

// Catches: a choice that depends on what was asked before, on the tensors' addresses or on the call.
TEST_CASE("the choices do not depend on the order in which shapes are seen") {
  const Layer small(3, 16, 8, DType::bf16), large(65, 40, 72, DType::bf16);
  const auto use = [](Products& products, const Layer& layer) {
    TestTensor y(layer.type, layer.N * layer.O), d_weight(layer.type, layer.O * layer.I);
    products->forward(layer.forward(y), {});
    products->weight_gradient(layer.weight_gradient(d_weight), {});
    products->forward(layer.forward(y), {});
  };
  Products one, other;
  use(one, small);
  use(one, large);
  use(other, large);
  use(other, small);
  CHECK(one->algorithms() == other->algorithms());
  CHECK(count_of(one->algorithms(), "\"operation\"") == 4);
}

// The stand-in has GELU for BF16 and more than one row. Fused, GELU is of the sum, else of what was rounded: the two
// differ here, so the bits say which was done.
// Catches: a fused entry run unfused or the reverse, pre_activation given to the product as its result.
TEST_CASE("GELU is fused where there is a candidate, and our own kernel's elsewhere") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  for (const int64_t N : {1, 33}) {
    Layer layer(N, 96, 264, type);
    for (int64_t i = 0; i < layer.x.elements(); ++i) layer.x.set(i, layer.x.get(i) / 128);
    Products products;
    TestTensor y(type, N * layer.O), pre_activation(type, N * layer.O);
    LinearForward op = layer.forward(y);
    op.bias = layer.bias;
    op.pre_activation = pre_activation;
    op.epilogue = Epilogue::gelu;
    products->forward(op, {});
    const bool fused = type == DType::bf16 && N > 1;
    CHECK(has(products->algorithms(), fused ? "\"fused\": true" : "\"fused\": false"));
    TestTensor rounded(type, N * layer.O), of_sums(type, N * layer.O), of_rounded(type, N * layer.O);
    for (int64_t i = 0; i < y.elements(); ++i) {
      const double sum = layer.sum(i / layer.O, i % layer.O) + layer.bias.get(i % layer.O);
      rounded.set(i, sum);
      of_sums.set(i, gelu(static_cast<float>(sum)));
      of_rounded.set(i, gelu(static_cast<float>(rounded.get(i))));
    }
    CHECK(same_bits(pre_activation, rounded));
    CHECK(same_bits(y, fused ? of_sums : of_rounded));
    CHECK((type == DType::fp32 || !same_bits(of_sums, of_rounded)));
  }
}

// Catches: d_bias left to nobody or done twice, fused into an accumulated product, which would overwrite it.
TEST_CASE("the bias gradient is fused where there is a candidate, and never into an accumulated product") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  for (const bool accumulate : {false, true}) {
    const Layer layer(100, 40, 264, type);
    Products products;
    TestTensor d_weight = filled_tensor(DType::fp32, layer.O * layer.I, 7);
    TestTensor d_bias = filled_tensor(DType::fp32, layer.O, 7), expected(DType::fp32, layer.O);
    LinearWeightGradient op = layer.weight_gradient(d_weight);
    op.d_bias = d_bias;
    op.accumulate = accumulate;
    TestTensor workspace(DType::fp32, op.workspace_bytes() / 4);
    const TestTensor untouched = workspace;
    op.workspace = workspace.fp32();
    products->weight_gradient(op, {});
    for (int64_t o = 0; o < layer.O; ++o) {
      double sum = accumulate ? 7 : 0;
      for (int64_t n = 0; n < layer.N; ++n) sum += layer.dy.get(n * layer.O + o);
      expected.set(o, sum);
    }
    const bool fused = type == DType::bf16 && !accumulate;
    CHECK(same_bits(d_bias, expected));
    CHECK(same_bits(d_weight, layer.d_weight(DType::fp32, accumulate ? 7 : 0)));
    CHECK(same_bits(workspace, untouched) == fused);
    CHECK(has(products->algorithms(), accumulate ? "\"epilogue\": \"none\"" : "\"epilogue\": \"bias_gradient\""));
    CHECK(has(products->algorithms(), fused || accumulate ? "\"fused\": true" : "\"fused\": false"));
  }
}

// Catches: work done before the stream comes to it, pointers or beta of a later call used for an earlier one.
TEST_CASE("products are done in the order of their stream, each with its own tensors") {
  const Layer layer(33, 40, 72, DType::bf16);
  Products products;
  cudaStream_t created = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking) == cudaSuccess);
  const Stream stream{created};
  TestTensor first(DType::bf16, layer.N * layer.O), second(DType::bf16, layer.N * layer.O);
  TestTensor sum(DType::fp32, layer.O * layer.I);
  const TestTensor poison = first, zeros = filled_tensor(DType::bf16, layer.O, 0);
  LinearForward op = layer.forward(first);
  op.bias = layer.bias;
  products->forward(op, stream);
  op.y = second;
  op.bias = zeros;
  products->forward(op, stream);
  LinearWeightGradient gradient = layer.weight_gradient(sum);
  products->weight_gradient(gradient, stream);
  gradient.accumulate = true;
  products->weight_gradient(gradient, stream);
  CHECK(same_bits(first, poison));
  REQUIRE(cudaStreamSynchronize(created) == cudaSuccess);
  REQUIRE(cudaStreamDestroy(created) == cudaSuccess);
  TestTensor with_bias = layer.y(), twice = layer.d_weight(DType::fp32);
  for (int64_t i = 0; i < with_bias.elements(); ++i) {
    with_bias.set(i, layer.sum(i / layer.O, i % layer.O) + layer.bias.get(i % layer.O));
  }
  for (int64_t i = 0; i < twice.elements(); ++i) twice.set(i, 2 * twice.get(i));
  CHECK(same_bits(first, with_bias));
  CHECK(same_bits(second, layer.y()));
  CHECK(same_bits(sum, twice));
}

// Catches: a table that is read and then not used, an entry replaced by the heuristic's choice, one lost in the copy.
TEST_CASE("a run takes over the choices of another, whatever the heuristic says") {
  const Layer layer(33, 40, 72, DType::bf16);
  Products first, second;
  TestTensor y(DType::bf16, layer.N * layer.O), d_weight(DType::fp32, layer.O * layer.I);
  first->forward(layer.forward(y), {});
  first->weight_gradient(layer.weight_gradient(d_weight), {});
  const std::string table = first->algorithms();
  second->use_algorithms(table, "algorithms.json");
  CHECK(second->algorithms() == table);
  second->forward(layer.forward(y), {});
  CHECK(second->algorithms() == table);

  const std::string other =
      replaced(replaced(replaced(table, kBestWord, kSecondWord), tile(kBestTile), tile(kSecondTile)), "\"stages\": 12",
               "\"stages\": 15");
  second->use_algorithms(other, "algorithms.json");
  second->forward(layer.forward(y), {});
  CHECK(second->algorithms() == other);
  CHECK(same_bits(y, layer.y()));
}

// Catches: an algorithm taken over unseen, half a table taken over, a message that does not say which file.
TEST_CASE("a table whose algorithms cannot be used is refused as a whole") {
  const Layer layer(33, 40, 72, DType::bf16);
  Products products;
  TestTensor y(DType::bf16, layer.N * layer.O);
  products->forward(layer.forward(y), {});
  const std::string table = products->algorithms();
  const auto refusal = [&](const std::string& text) {
    const std::string found = complaint([&] { products->use_algorithms(text, "run/algorithms.json"); });
    CHECK(products->algorithms() == table);
    return found;
  };
  CHECK(refusal(replaced(table, kBestWord, "0123456789abcdef")) ==
        "run/algorithms.json: the algorithm for linear_forward N=33 I=40 O=72 bf16 is refused by cuBLASLt: "
        "CUBLAS_STATUS_INVALID_VALUE; make a new table with `dither tune`");
  CHECK_THAT(refusal(replaced(table, kBestWord, kForbiddenWord)),
             ContainsSubstring("splits its sums and does not add the parts in FP32"));
  CHECK_THAT(refusal(replaced(table, kBestWord, kSecondWord)),
             ContainsSubstring("is another one than its entry says: split_k 1, tile 15, stages 15"));
  CHECK_THAT(refusal("no table"), ContainsSubstring("run/algorithms.json: is not JSON"));
  CHECK_THAT(
      refusal(replaced(table, "host execution", "NVIDIA A100")),
      ContainsSubstring("belong to NVIDIA A100 (compute capability 9.0, cuBLASLt 130100), here is host execution"));

  const size_t version = cublasLtGetVersion();
  cuda_host::set_cublaslt_version(version + 1);
  Products later;
  cuda_host::set_cublaslt_version(version);
  CHECK_THAT(complaint([&] { later->use_algorithms(table, "run/algorithms.json"); }),
             ContainsSubstring("here is host execution (compute capability 9.0, cuBLASLt 130101)"));

  // 20,000 x 200 partial sums in four parts need 64 MB.
  const std::string split = replaced(
      replaced(
          replaced(replaced(replaced(replaced(table, kBestWord, "00000000d17e5002"), tile(kBestTile), tile(kSplitTile)),
                            "\"stages\": 12", "\"stages\": 13"),
                   "\"split_k\": 1", "\"split_k\": 4"),
          "\"N\": 33", "\"N\": 20000"),
      "\"O\": 72", "\"O\": 200");
  CHECK_THAT(refusal(split), ContainsSubstring("needs 64000000 bytes of workspace, of which there are 33554432"));
}

// Catches: the first candidate kept whatever was measured; measured again in every call; a real call left out.
TEST_CASE("tuning keeps the fastest allowed candidate of a product that is not in the table") {
  const Layer layer(33, 40, 72, DType::bf16);
  Products products;
  TestTensor y(DType::bf16, layer.N * layer.O);
  cuda_host::delay_products(is_best, kDelay);
  products->tune(true);
  products->forward(layer.forward(y), {});
  const std::string table = products->algorithms();
  CHECK_FALSE(has(table, tile(kBestTile)));
  CHECK((has(table, tile(kSplitTile)) || has(table, tile(kSecondTile))));
  CHECK(count_of(table, "\"seconds\"") == 1);
  CHECK(same_bits(y, layer.y()));
  cuda_host::delay_products(nullptr, 0);
  products->forward(layer.forward(y), {});
  CHECK(products->algorithms() == table);

  Products next;  // a choice of the rule has not been measured, but it is in the table
  next->forward(layer.forward(y), {});
  const std::string by_rule = next->algorithms();
  next->tune(true);
  next->forward(layer.forward(y), {});
  CHECK(next->algorithms() == by_rule);
  CHECK_FALSE(has(by_rule, "\"seconds\""));
}

// Catches: candidates with an epilogue alone measured, or those without.
TEST_CASE("tuning weighs a fused epilogue against our own kernel") {
  const Layer layer(64, 40, 72, DType::bf16);
  for (const bool fused_is_slow : {true, false}) {
    Products products;
    TestTensor d_weight(DType::bf16, layer.O * layer.I), d_bias(DType::bf16, layer.O);
    LinearWeightGradient op = layer.weight_gradient(d_weight);
    op.d_bias = d_bias;
    TestTensor workspace(DType::fp32, op.workspace_bytes() / 4);
    op.workspace = workspace.fp32();
    cuda_host::delay_products(fused_is_slow ? is_fused : is_unfused, kDelay);
    products->tune(true);
    products->weight_gradient(op, {});
    cuda_host::delay_products(nullptr, 0);
    CHECK(has(products->algorithms(), fused_is_slow ? "\"fused\": false" : "\"fused\": true"));
    CHECK(count_of(products->algorithms(), "\"seconds\"") == 1);
    CHECK_FALSE(std::isnan(workspace.get(0)));  // our own kernel ran
    CHECK(same_bits(d_weight, layer.d_weight(DType::bf16)));
  }
}

// Catches: an accumulated product that tuning repeats: its sum would be added more than once.
TEST_CASE("tuning adds an accumulated product once, with the choice of the one that overwrites") {
  const Layer layer(33, 40, 72, DType::bf16);
  Products products;
  products->tune(true);
  TestTensor d_weight = filled_tensor(DType::fp32, layer.O * layer.I, 7);
  LinearWeightGradient op = layer.weight_gradient(d_weight);
  op.accumulate = true;
  products->weight_gradient(op, {});
  CHECK(same_bits(d_weight, layer.d_weight(DType::fp32, 7)));
  CHECK(has(products->algorithms(), tile(kBestTile)));
  CHECK_FALSE(has(products->algorithms(), "\"seconds\""));

  Products other;
  cuda_host::delay_products(is_best, kDelay);
  other->tune(true);
  other->weight_gradient(layer.weight_gradient(d_weight), {});
  const std::string table = other->algorithms();
  other->weight_gradient(op, {});
  cuda_host::delay_products(nullptr, 0);
  CHECK_FALSE(has(table, tile(kBestTile)));
  CHECK(other->algorithms() == table);
}

// Catches: a status nobody looks at, a message without the shape or the place.
TEST_CASE("what the library refuses is an error that names the product") {
  const Layer layer(33, 40, 72, DType::bf16);
  Products products;
  TestTensor y(DType::bf16, layer.N * layer.O + 8);
  products->forward(layer.forward(y), {});
  // The best algorithm does not work at 16 bytes, which its check cannot see.
  products->use_algorithms(replaced(products->algorithms(), "\"alignment\": 256", "\"alignment\": 16"), "a.json");
  const std::string refused = complaint([&] { products->forward(layer.forward(y.at(8)), {}); });
  CHECK_THAT(refused,
             ContainsSubstring("linear_forward N=33 I=40 O=72 bf16: CUBLAS_STATUS_INVALID_VALUE (an unsupported"));
  CHECK_THAT(refused, ContainsSubstring("kernels/cuda/product_plan.cu:"));
  const std::string unaligned = complaint([&] { products->forward(layer.forward(y.at(4)), {}); });
  CHECK_THAT(unaligned,
             ContainsSubstring("linear_forward N=33 I=40 O=72 bf16: cuBLASLt 130100 on host execution has no "
                               "algorithm for it that sums in FP32 within 33554432 bytes of workspace"));
}

// Catches: a descriptor, layout, preference or handle that is never destroyed, also where a table is refused.
TEST_CASE("nothing of the library outlives the products") {
  const int before = cuda_host::live_cublaslt_objects();
  {
    const Layer layer(3, 16, 8, DType::bf16);
    Products products;
    TestTensor y(DType::bf16, layer.N * layer.O);
    products->tune(true);
    products->forward(layer.forward(y), {});
    products->use_algorithms(products->algorithms(), "a.json");
    (void)complaint([&] { products->forward(layer.forward(y.at(4)), {}); });
    CHECK(cuda_host::live_cublaslt_objects() > before);
  }
  CHECK(cuda_host::live_cublaslt_objects() == before);
}

}  // namespace dither
