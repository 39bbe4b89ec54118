// In the place of kernels/cuda where the program is built without CUDA.
#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/cuda_workspace.h"

namespace dither {

int cuda_devices() { return 0; }
int64_t cuda_workspace_bytes() { return kCudaWorkspaceBytes; }

std::unique_ptr<Backend> make_cuda_backend(int /*device*/) {
  throw Error(
      "device is \"cuda\", but this program was built without CUDA: build it where nvcc is found "
      "(-DDITHER_CUDA=ON); allowed here: \"auto\", \"cpu\"");
}

}  // namespace dither
