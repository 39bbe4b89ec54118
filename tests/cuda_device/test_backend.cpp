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
  static const std::shared_ptr<Backend> backend =
      make_cuda_backend(0);  // making one takes milliseconds, tests ask often
  return std::make_unique<SynchronousBackend>(backend);
}

}  // namespace dither
