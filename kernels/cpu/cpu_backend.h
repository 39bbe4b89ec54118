// The CPU backend: oneDNN for matrix products (matrix_product.h), OpenMP and vectorised loops for the rest, one file a
// family of operations in this folder.
#pragma once

#include <memory>
#include <unordered_map>

#include "kernels/backend.h"

namespace dither {

class MatrixProduct;

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(int threads);  // 0 = all cores
  ~CpuBackend() override;

  void embedding_forward(const EmbeddingForward& op, Stream stream) override;
  void embedding_backward(const EmbeddingBackward& op, Stream stream) override;
  void residual_norm_forward(const ResidualNormForward& op, Stream stream) override;
  void residual_norm_backward(const ResidualNormBackward& op, Stream stream) override;
  void rotary_forward(const RotaryForward& op, Stream stream) override;
  void rotary_backward(const RotaryBackward& op, Stream stream) override;
  void attention_forward(const AttentionForward& op, Stream stream) override;
  void attention_backward(const AttentionBackward& op, Stream stream) override;
  void gelu_forward(const GeluForward& op, Stream stream) override;
  void gelu_backward(const GeluBackward& op, Stream stream) override;
  void swiglu_forward(const SwigluForward& op, Stream stream) override;
  void swiglu_backward(const SwigluBackward& op, Stream stream) override;
  void linear_forward(const LinearForward& op, Stream stream) override;
  void linear_input_gradient(const LinearInputGradient& op, Stream stream) override;
  void linear_weight_gradient(const LinearWeightGradient& op, Stream stream) override;
  void cross_entropy(const CrossEntropy& op, Stream stream) override;
  void sum_losses(const SumLosses& op, Stream stream) override;
  void initialise(const Initialise& op, Stream stream) override;
  void accumulate(const Accumulate& op, Stream stream) override;
  void squared_norm(const SquaredNorm& op, Stream stream) override;
  void decide_step(const DecideStep& op, Stream stream) override;
  void adamw(const AdamW& op, Stream stream) override;

  void copy(View to, ConstView from, int64_t elements, Stream stream) override;
  void zero(void* memory, int64_t bytes, Stream stream) override;
  void copy_from_host(void* to, const void* from, int64_t bytes, Stream stream) override;
  void copy_to_host(void* to, const void* from, int64_t bytes, Stream stream) override;
  void synchronize(Stream stream) override;
  Stream stream() const override { return {}; }
  Stream second_stream() const override { return stream(); }
  void order(Stream /*earlier*/, Stream /*later*/) override {}
  void repeat(uint64_t /*key*/, Stream /*stream*/, const std::function<void()>& work) override { work(); }

  void* allocate(int64_t bytes) override;
  void free(void* memory) override;
  int64_t allocated_bytes() const override { return allocated_bytes_; }
  int64_t allocation_count() const override { return allocation_count_; }
  int64_t free_bytes() const override;
  std::string description() const override;
  std::string arithmetic() const override;
  std::string device_id() const override { return ""; }

 private:
  int threads_;
  std::unique_ptr<MatrixProduct> product_;
  std::unordered_map<void*, int64_t> allocations_;
  int64_t allocated_bytes_ = 0;
  int64_t allocation_count_ = 0;
};

}  // namespace dither
