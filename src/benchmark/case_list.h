// What the makers of cases share (operations.cpp, operations_update.cpp): the sizes and types of a config, and the list
// that they add to.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <utility>  // move
#include <vector>

#include "src/benchmark/operations.h"
#include "src/model/activations.h"  // head_chunk_tokens()
#include "src/model/parameter_table.h"

namespace dither {

/// What the config makes of sizes and types.
struct Shapes {
  Config config;
  ParameterTable table;
  int64_t B, T, N, C, F, HD, V, Vp, chunk;
  int H, Hkv, D;
  DType activation, residual, gradient;  // gradient: what backward writes

  explicit Shapes(const Config& c) : config(c), table(c) {
    const ModelConfig& m = config.model;
    B = config.batch.micro_batch_size, T = m.sequence_length, N = B * T;
    C = m.hidden, F = m.ffn, V = m.vocabulary, Vp = padded_vocabulary(m), chunk = head_chunk_tokens(m, N);
    H = m.heads, Hkv = m.kv_heads, D = m.head_size, HD = int64_t{H} * D;
    activation = config.precision.compute, residual = config.precision.residual;
    const bool several = config.batch.tokens_per_step > N;
    gradient = several ? DType::fp32 : gradient_type(config.precision.gradient);
  }
  /// What weights of a kind are stored in.
  DType weight(ParameterKind kind) const {
    return config.precision.keeps_fp32(kind) ? DType::fp32 : strategy_info(config.precision.strategy).weight;
  }
  bool layer_norm() const { return config.model.normalization == Normalization::layer_norm; }
  float epsilon() const { return static_cast<float>(config.model.norm_epsilon); }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(D)); }
  int64_t qkv() const { return qkv_width(config.model); }
};

/// The call of an operation with these arguments.
template <class Operation>
Call call(void (Backend::*operation)(const Operation&, Stream), const Operation& op) {
  return [operation, op](Backend& backend, Stream stream) { (backend.*operation)(op, stream); };
}

/// Collects cases; each maker sees the shapes.
class List {
 public:
  explicit List(const Config& config) : shapes_(std::make_shared<const Shapes>(config)) {}

  const Shapes& shapes() const { return *shapes_; }
  template <class Make>
  void add(const char* operation, std::string shape, const Make& make) {
    cases_.push_back(
        {operation, std::move(shape), [make, shapes = shapes_](CaseMemory& memory) { return make(*shapes, memory); }});
  }
  std::vector<Case> take() { return std::move(cases_); }

 private:
  std::shared_ptr<const Shapes> shapes_;
  std::vector<Case> cases_;
};

/// The families of backend.h, each in its order there.
void add_linear(List& list);
void add_loss(List& list);
void add_update(List& list);
void add_copies(List& list);

}  // namespace dither
