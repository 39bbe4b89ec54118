// The three products of a linear layer: which algorithm computes each, and what our own kernels finish.
//
//   forward          y  = x W^T + bias, then GELU: by the product's epilogue, or by gelu_forward from pre_activation
//   input gradient   dx = dy W
//   weight gradient  dW = dy^T x; d_bias by the product's epilogue, or by linear_bias_gradient
//
// Bits    without a fused epilogue GELU and the bias gradient have the CPU's bits. Fused, y is gelu of the sum before
//         it was rounded to pre_activation, and d_bias adds its FP32 terms in an order of the library's own. FP32
//         products are never fused, and neither is the bias gradient of an accumulated product.
// Types   BF16 operands to BF16 or FP32, FP32 operands to FP32. FP32 operands to a BF16 d_weight is no product of the
//         library's: narrow_weight_gradient computes it.
#include <algorithm>
#include <functional>
#include <initializer_list>
#include <map>
#include <optional>

#include "kernels/cuda/kernels.h"  // gelu_forward
#include "kernels/cuda/matrix_product.h"
#include "kernels/cuda/product_plan.h"

namespace dither::cuda {

namespace {

constexpr int kRuns = 5;  // of a candidate that is measured, after one that is not: their median counts

/// The largest power of two, up to kLargestAlignment, of which every address is a multiple.
int alignment_of(std::initializer_list<const void*> pointers) {
  uintptr_t bits = kLargestAlignment;
  for (const void* pointer : pointers) bits |= reinterpret_cast<uintptr_t>(pointer);  // an absent one changes nothing
  return static_cast<int>(bits & (~bits + 1));
}

TableOrigin current_origin() {
  int device = 0;
  cudaDeviceProp properties = {};
  check_cuda(cudaGetDevice(&device), "matrix products");
  check_cuda(cudaGetDeviceProperties(&properties, device), "matrix products");
  return {.device = properties.name,
          .compute_capability = std::to_string(properties.major) + "." + std::to_string(properties.minor),
          .cublaslt = static_cast<int64_t>(cublasLtGetVersion())};
}

[[noreturn]] void refuse(const std::string& where, const ProductKey& key, const std::string& objection) {
  throw Error(where + ": the algorithm for " + text_of(key) + " " + objection +
              "; make a new table with `dither tune`");
}

/// The time of pieces of work on a stream, by the device's own clock.
class Stopwatch {
 public:
  explicit Stopwatch(cudaStream_t stream) : stream_(stream) {
    check_cuda(cudaEventCreate(&begin_), "measuring a product");
    check_cuda(cudaEventCreate(&end_), "measuring a product");
  }
  ~Stopwatch() {
    (void)cudaEventDestroy(begin_);
    (void)cudaEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  double median_seconds(const std::function<void()>& work) {
    work();
    float times[kRuns];
    for (float& milliseconds : times) {
      check_cuda(cudaEventRecord(begin_, stream_), "measuring a product");
      work();
      check_cuda(cudaEventRecord(end_, stream_), "measuring a product");
      check_cuda(cudaEventSynchronize(end_), "measuring a product");
      check_cuda(cudaEventElapsedTime(&milliseconds, begin_, end_), "measuring a product");
    }
    std::nth_element(times, times + kRuns / 2, times + kRuns);
    return static_cast<double>(times[kRuns / 2]) * 1e-3;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace

struct MatrixProducts::State {
  using Trial = std::function<void(const ProductPlan&)>;

  explicit State(void* memory) : workspace(memory), origin(current_origin()) {
    cublasLtHandle_t made = nullptr;
    check_cublaslt(cublasLtCreate(&made), [] { return "matrix products"; });
    handle.reset(made);
  }

  /// run(plan) with the product's plan, which is made when the product is first asked for. `repeatable`: run may be
  /// called more than once and leaves what it leaves when called once.
  template <class Run>
  void compute(const ProductKey& key, bool repeatable, Stream stream, const Run& run) {
    auto found = plans.find(key);
    if (found == plans.end()) {
      const Trial trial = tuning && repeatable ? Trial(run) : Trial();
      found = plans.emplace(key, chosen(key, trial, static_cast<cudaStream_t>(stream.handle))).first;
    }
    run(found->second);
  }

  void multiply(const ProductPlan& plan, const ProductOperands& operands, bool accumulate, Stream stream) const {
    plan.run(handle.get(), operands, accumulate, workspace, kWorkspaceBytes, static_cast<cudaStream_t>(stream.handle));
  }

  /// The plan of the rule; with a trial, of the fastest candidate.
  ProductPlan chosen(const ProductKey& key, const Trial& trial, cudaStream_t stream) const {
    std::optional<Algorithm> best;
    for (const bool fused : {true, false}) {
      if (!(fused ? can_be_fused(key) : can_be_unfused(key.epilogue))) continue;
      ProductPlan plan(key, fused);
      for (Algorithm& candidate : plan.candidates(handle.get(), kWorkspaceBytes)) {
        plan.use(candidate);
        if (!trial) return plan;
        candidate.seconds = Stopwatch(stream).median_seconds([&] { trial(plan); });
        if (!best || candidate.seconds < best->seconds) best = candidate;
      }
    }
    if (!best) {
      throw Error(text_of(key) + ": cuBLASLt " + std::to_string(origin.cublaslt) + " on " + origin.device +
                  " has no algorithm for it that sums in FP32 within " + std::to_string(kWorkspaceBytes) +
                  " bytes of workspace; another version of cuBLAS may have one");
    }
    ProductPlan plan(key, best->fused);
    plan.use(*best);
    return plan;
  }

  CublasltHandle handle;
  void* workspace;
  TableOrigin origin;
  bool tuning = false;
  std::map<ProductKey, ProductPlan> plans;
};

MatrixProducts::MatrixProducts(void* workspace) : state_(std::make_unique<State>(workspace)) {}
MatrixProducts::~MatrixProducts() = default;

void MatrixProducts::forward(const LinearForward& op, Stream stream) {
  op.check();
  const bool gelu = op.epilogue == Epilogue::gelu;
  const ProductEpilogue plain = op.bias ? ProductEpilogue::bias : ProductEpilogue::none;
  const ProductEpilogue with_gelu = op.bias ? ProductEpilogue::gelu_bias : ProductEpilogue::gelu;
  const ProductKey key{
      .product = LinearProduct::forward,
      .N = op.N,
      .I = op.I,
      .O = op.O,
      .operands = op.x.type,
      .result = op.y.type,
      .epilogue = gelu ? with_gelu : plain,
      .alignment = alignment_of({op.y.data, op.pre_activation.data, op.x.data, op.weight.data, op.bias.data})};
  state_->compute(key, true, stream, [&](const ProductPlan& plan) {
    const bool own_gelu = gelu && !plan.algorithm().fused;
    state_->multiply(plan,
                     {.a = op.weight.data,
                      .b = op.x.data,
                      .d = own_gelu ? op.pre_activation.data : op.y.data,
                      .bias = op.bias.data,
                      .pre_activation = op.pre_activation.data},
                     false, stream);
    if (own_gelu) gelu_forward({.y = op.y, .x = op.pre_activation, .elements = op.N * op.O}, stream);
  });
}

void MatrixProducts::input_gradient(const LinearInputGradient& op, Stream stream) {
  op.check();
  const ProductKey key{.product = LinearProduct::input_gradient,
                       .N = op.N,
                       .I = op.I,
                       .O = op.O,
                       .operands = op.dy.type,
                       .result = op.dx.type,
                       .epilogue = ProductEpilogue::none,
                       .alignment = alignment_of({op.dx.data, op.dy.data, op.weight.data})};
  state_->compute(key, true, stream, [&](const ProductPlan& plan) {
    state_->multiply(plan, {.a = op.weight.data, .b = op.dy.data, .d = op.dx.data}, false, stream);
  });
}

void MatrixProducts::weight_gradient(const LinearWeightGradient& op, Stream stream) {
  op.check();
  if (op.dy.type == DType::fp32 && op.d_weight.type == DType::bf16) {
    narrow_weight_gradient(op, stream);
    if (op.d_bias) linear_bias_gradient(op, stream);
    return;
  }
  const bool offers_bias = op.d_bias && !op.accumulate;
  const ProductKey key{.product = LinearProduct::weight_gradient,
                       .N = op.N,
                       .I = op.I,
                       .O = op.O,
                       .operands = op.dy.type,
                       .result = op.d_weight.type,
                       .epilogue = offers_bias ? ProductEpilogue::bias_gradient : ProductEpilogue::none,
                       .alignment = alignment_of({op.d_weight.data, op.d_bias.data, op.dy.data, op.x.data})};
  state_->compute(key, !op.accumulate, stream, [&](const ProductPlan& plan) {
    state_->multiply(plan, {.a = op.x.data, .b = op.dy.data, .d = op.d_weight.data, .bias = op.d_bias.data},
                     op.accumulate, stream);
    const bool done = offers_bias && plan.algorithm().fused;
    if (op.d_bias && !done) linear_bias_gradient(op, stream);
  });
}

std::string MatrixProducts::algorithms() const {
  AlgorithmTable table;
  for (const auto& [key, plan] : state_->plans) table.emplace(key, plan.algorithm());
  return to_json(state_->origin, table);
}

void MatrixProducts::use_algorithms(const std::string& json, const std::string& where) {
  std::map<ProductKey, ProductPlan> plans;
  for (const auto& [key, algorithm] : algorithms_from_json(json, where, state_->origin)) {
    ProductPlan plan(key, algorithm.fused);
    const std::string objection = plan.objection(state_->handle.get(), algorithm, kWorkspaceBytes);
    if (!objection.empty()) refuse(where, key, objection);
    plan.use(algorithm);
    plans.emplace(key, std::move(plan));
  }
  state_->plans = std::move(plans);
}

void MatrixProducts::tune(bool on) { state_->tuning = on; }

}  // namespace dither::cuda
