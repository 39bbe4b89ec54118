// The CUDA backend for the tests of operations on a GPU: each operation has ended when its call returns.
#include "tests/kernels/test_backend.h"

#include "kernels/forwarding_backend.h"

namespace dither {

namespace {

class SynchronousBackend final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  void repeat(uint64_t /*key*/, Stream /*stream*/, const std::function<void()>& work) override { work(); }

 private:
  void around(const Work& /*work*/, Stream stream, const std::function<void()>& run) override {
    run();
    inner().synchronize(stream);
  }
};

}  // namespace

std::unique_ptr<Backend> test_backend(int /*threads*/) {
  return std::make_unique<SynchronousBackend>(make_cuda_backend(0));
}

}  // namespace dither
