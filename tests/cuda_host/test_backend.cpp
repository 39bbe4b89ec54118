// The CPU backend with the CUDA kernels in the place of its operations, for the tests in tests/kernels. Each backend
// made runs its kernels in the next order of threads, so that repeated tests see several.
#include "tests/kernels/test_backend.h"

#include <iterator>  // size
#include "kernels/cpu/cpu_backend.h"

#include "kernels/cuda/kernels.h"
#include "tests/cuda_host/execution.h"

namespace dither {

namespace {

class CudaHostBackend final : public CpuBackend {
 public:
  using CpuBackend::CpuBackend;

  void embedding_forward(const EmbeddingForward& op, Stream stream) override { cuda::embedding_forward(op, stream); }
  void embedding_backward(const EmbeddingBackward& op, Stream stream) override { cuda::embedding_backward(op, stream); }
  void residual_norm_forward(const ResidualNormForward& op, Stream stream) override {
    cuda::residual_norm_forward(op, stream);
  }
  void residual_norm_backward(const ResidualNormBackward& op, Stream stream) override {
    cuda::residual_norm_backward(op, stream);
  }
  void rotary_forward(const RotaryForward& op, Stream stream) override { cuda::rotary_forward(op, stream); }
  void rotary_backward(const RotaryBackward& op, Stream stream) override { cuda::rotary_backward(op, stream); }
  void gelu_forward(const GeluForward& op, Stream stream) override { cuda::gelu_forward(op, stream); }
  void gelu_backward(const GeluBackward& op, Stream stream) override { cuda::gelu_backward(op, stream); }
  void swiglu_forward(const SwigluForward& op, Stream stream) override { cuda::swiglu_forward(op, stream); }
  void swiglu_backward(const SwigluBackward& op, Stream stream) override { cuda::swiglu_backward(op, stream); }
  void cross_entropy(const CrossEntropy& op, Stream stream) override { cuda::cross_entropy(op, stream); }
  void sum_losses(const SumLosses& op, Stream stream) override { cuda::sum_losses(op, stream); }
  void initialise(const Initialise& op, Stream stream) override { cuda::initialise(op, stream); }
  void accumulate(const Accumulate& op, Stream stream) override { cuda::accumulate(op, stream); }
  void squared_norm(const SquaredNorm& op, Stream stream) override { cuda::squared_norm(op, stream); }
  void decide_step(const DecideStep& op, Stream stream) override { cuda::decide_step(op, stream); }
  void adamw(const AdamW& op, Stream stream) override { cuda::adamw(op, stream); }
  void copy(View to, ConstView from, int64_t elements, Stream stream) override {
    cuda::copy(to, from, elements, stream);
  }
};

}  // namespace

std::unique_ptr<Backend> test_backend(int threads) {
  static size_t made = 0;
  cuda_host::set_order(cuda_host::kOrders[made++ % std::size(cuda_host::kOrders)]);
  return std::make_unique<CudaHostBackend>(threads);
}

}  // namespace dither
