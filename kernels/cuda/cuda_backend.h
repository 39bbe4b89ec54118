// The CUDA backend: cuBLASLt for matrix products (matrix_product.h), the kernels of this folder for the rest, on one
// device. A step waits for nothing: operations are queued on a stream, the host's values travel through pinned memory,
// and what a step repeats is recorded as a CUDA graph.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <unordered_map>

#include "kernels/backend.h"
#include "kernels/cuda/matrix_product.h"
#include "kernels/cuda/status.h"

namespace dither {

namespace cuda {

/// Pinned memory through which values travel to the device: the host may use its own again at once. A ring of slots;
/// one is used again when the stream has read it.
class Staging {
 public:
  Staging();
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  void copy(void* to, const void* from, int64_t bytes, cudaStream_t stream);

 private:
  static constexpr int64_t kSlotBytes = 256 << 10;  // a micro-batch of 64 sequences of 1,024 tokens
  static constexpr size_t kSlots = 32;              // some micro-batches ahead of the device
  char* memory_ = nullptr;
  std::array<cudaEvent_t, kSlots> read_{};  // the stream has read the slot
  size_t next_ = 0;
};

/// A piece of a step that comes again and again. The first time it runs as it is (libraries choose algorithms, kernels
/// are loaded), the second time it is recorded, from then on replayed.
class Recording {
 public:
  Recording() = default;
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  void run(cudaStream_t stream, const std::function<void()>& work);

 private:
  bool known_ = false;  // it has run once
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace cuda

class CudaBackend final : public Backend {
 public:
  /// Throws Error where there is no such device.
  explicit CudaBackend(int device);
  ~CudaBackend() override;
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

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
  Stream stream() const override { return {stream_}; }
  Stream second_stream() const override { return {second_stream_}; }
  /// Within repeat() what is given to `later` is recorded too, once it is ordered behind the stream that is recorded;
  /// before the work ends it must be ordered before that stream again.
  void order(Stream earlier, Stream later) override;
  void repeat(uint64_t key, Stream stream, const std::function<void()>& work) override;

  void* allocate(int64_t bytes) override;
  void free(void* memory) override;
  int64_t allocated_bytes() const override { return allocated_bytes_; }
  int64_t allocation_count() const override { return allocation_count_; }
  int64_t free_bytes() const override;
  std::string description() const override;
  std::string arithmetic() const override;
  std::string device_id() const override;

  std::string algorithms() const override { return products_->algorithms(); }
  void use_algorithms(const std::string& json, const std::string& where) override {
    products_->use_algorithms(json, where);
  }
  void tune(bool on) override { products_->tune(on); }

 private:
  int device_;
  cudaStream_t stream_ = nullptr, second_stream_ = nullptr;
  cudaEvent_t order_ = nullptr;  // of order(): waits hold its place at their call, so one is enough
  std::unordered_map<void*, int64_t> allocations_;
  int64_t allocated_bytes_ = 0;
  int64_t allocation_count_ = 0;
  std::unique_ptr<cuda::Staging> staging_;
  std::unique_ptr<cuda::MatrixProducts> products_;
  std::unordered_map<uint64_t, cuda::Recording> recordings_;
};

}  // namespace dither
