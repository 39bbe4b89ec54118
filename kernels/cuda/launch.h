// How a kernel is started: through launch() alone, which checks the status and names the operation in its error. Never
// with triple angle brackets, so that the same source can be compiled as plain C++ and run on the host.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/status.h"
#include "kernels/view.h"  // Stream

#ifndef __CUDACC__
#include <tuple>

#include "tests/cuda_host/execution.h"
#endif

namespace dither {

struct Launch {
  const char* operation;  // for messages
  dim3 grid;
  dim3 block;
  int64_t shared_bytes = 0;
};

/// Blocks of a grid that take `each` of `count` things: the last one may have fewer.
inline unsigned blocks_of(int64_t count, int64_t each) { return static_cast<unsigned>((count + each - 1) / each); }

/// Starts kernel(arguments...) on the stream. Throws Error with the operation, the status and the sizes where the
/// device refuses.
template <class... Parameters, class... Arguments>
void launch(const Launch& how, Stream stream, void (*kernel)(Parameters...), const Arguments&... arguments) {
#ifdef __CUDACC__
  if (how.shared_bytes > 48 * 1024) {  // more is granted on request alone
    check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(how.shared_bytes)),
               how.operation);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = how.grid;
  config.blockDim = how.block;
  config.dynamicSmemBytes = static_cast<size_t>(how.shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream.handle);
  check_launch(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), how.operation, how.grid,
               how.block, how.shared_bytes);
#else
  // The arguments are copied now, as the device does: what they point to is read when the stream comes to it.
  cuda_host::enqueue(static_cast<cudaStream_t>(stream.handle),
                     [how, kernel, copies = std::tuple<Parameters...>(static_cast<Parameters>(arguments)...)] {
                       cuda_host::run_grid(how.grid, how.block, how.shared_bytes, [&] { std::apply(kernel, copies); });
                     });
#endif
}

}  // namespace dither
