// The host's stand-in for what CUDA queues on a stream: kernels, copies and products of libraries.
//
// Work on a created stream is done as late as CUDA's rules allow: when somebody waits for it (cuda_runtime.h). So a
// result read too early, or host memory used again too early, shows. The null stream does everything at once, after all
// that is queued elsewhere, as CUDA's legacy default stream does. A stream that captures hands its work to a graph.
#pragma once

#include <functional>

struct CudaHostStream;

namespace dither::cuda_host {

/// Gives `work` to a stream. It must hold copies of all that it needs, as a kernel holds its arguments.
void enqueue(CudaHostStream* stream, std::function<void()> work);

}  // namespace dither::cuda_host
