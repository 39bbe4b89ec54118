#include "kernels/cuda/status.h"

#include <string>

#include "base/error.h"

namespace dither {

namespace {

std::string text_of(cudaError_t status, const char* operation) {
  return std::string(operation) + ": " + cudaGetErrorName(status) + " (" + cudaGetErrorString(status) + ")";
}

std::string text_of(dim3 size) {
  return std::to_string(size.x) + "x" + std::to_string(size.y) + "x" + std::to_string(size.z);
}

}  // namespace

void check_cuda(cudaError_t status, const char* operation, const char* file, int line) {
  if (status == cudaSuccess) return;
  throw Error(text_of(status, operation) + ", " + file + ":" + std::to_string(line));
}

void check_launch(cudaError_t status, const char* operation, dim3 grid, dim3 block, int64_t shared_bytes) {
  if (status == cudaSuccess) return;
  throw Error(text_of(status, operation) + ", grid " + text_of(grid) + ", block " + text_of(block) + ", " +
              std::to_string(shared_bytes) + " bytes of shared memory");
}

}  // namespace dither
