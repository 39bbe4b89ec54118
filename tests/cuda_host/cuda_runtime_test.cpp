// The stand-ins for CUDA's calls: streams that run late, events, capture, memory. What a backend makes it must give
// back.
#include "tests/cuda_host/cuda_runtime.h"

#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernels/backend.h"
#include "tests/catch.h"

namespace dither {
namespace {

cudaStream_t new_stream() {
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  return stream;
}

}  // namespace

// Catches: stand-ins that hide a missing wait by doing everything at once.
TEST_CASE("a stream's work is done when somebody waits for it, in its order") {
  const cudaStream_t stream = new_stream();
  std::string done;
  cuda_host::enqueue(stream, [&] { done += "a"; });
  cudaEvent_t between = nullptr;
  REQUIRE(cudaEventCreate(&between) == cudaSuccess);
  REQUIRE(cudaEventRecord(between, stream) == cudaSuccess);
  cuda_host::enqueue(stream, [&] { done += "b"; });
  REQUIRE(done.empty());
  REQUIRE(cudaEventSynchronize(between) == cudaSuccess);
  REQUIRE(done == "a");
  cuda_host::enqueue(nullptr, [&] { done += "c"; });  // the null stream: after everything, at once
  REQUIRE(done == "abc");
  REQUIRE(cudaEventDestroy(between) == cudaSuccess);
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
}

// Catches: a copy whose source is read when it is given.
TEST_CASE("an asynchronous copy reads its source when the stream comes to it") {
  const cudaStream_t stream = new_stream();
  int from = 1, to = 0;
  REQUIRE(cudaMemcpyAsync(&to, &from, sizeof(from), cudaMemcpyDefault, stream) == cudaSuccess);
  from = 2;
  REQUIRE(to == 0);
  REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
  REQUIRE(to == 2);
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
}

TEST_CASE("captured work is not done, a graph does it at each launch, and waiting for a capturing stream is an error") {
  const cudaStream_t stream = new_stream();
  int done = 0;
  REQUIRE(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeThreadLocal) == cudaErrorStreamCaptureUnsupported);
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  cuda_host::enqueue(stream, [&] { ++done; });
  void* memory = nullptr;
  REQUIRE(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
  REQUIRE(cudaMalloc(&memory, 8) == cudaErrorStreamCaptureUnsupported);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&exec, graph) == cudaSuccess);
  REQUIRE(cudaGraphDestroy(graph) == cudaSuccess);
  for (int launch = 1; launch <= 3; ++launch) {
    REQUIRE(cudaGraphLaunch(exec, stream) == cudaSuccess);
    REQUIRE(done == launch - 1);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    REQUIRE(done == launch);
  }
  REQUIRE(cudaGraphExecDestroy(exec) == cudaSuccess);
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
}

// Catches: streams, events, graphs or memory that a backend leaves behind.
TEST_CASE("a backend gives back everything it made") {
  const size_t before = cuda_host::live_objects();
  {
    const auto backend = make_cuda_backend(0);
    backend->allocate(100);  // forgotten by the user
    for (int i = 0; i < 3; ++i) backend->repeat(1, backend->stream(), [] {});
    REQUIRE(cuda_host::live_objects() > before);
  }
  REQUIRE(cuda_host::live_objects() == before);
}

TEST_CASE("without a device cuda is refused, and memory that the device lacks too") {
  using Catch::Matchers::ContainsSubstring;
  cuda_host::set_devices(0);
  REQUIRE(cuda_devices() == 0);
  REQUIRE_THROWS_WITH(make_cuda_backend(0), ContainsSubstring("no CUDA device can be used here: see nvidia-smi"));
  cuda_host::set_devices(1);
  const auto backend = make_cuda_backend(0);
  cuda_host::set_device_memory(size_t{40} << 20);
  REQUIRE_THROWS_WITH(backend->allocate(20 << 20),
                      "device memory: 20.0 MiB wanted, 8.0 MiB free beside the 32.0 MiB that this run holds; needs a "
                      "smaller model, micro-batch or sequence");
  cuda_host::set_device_memory(size_t{64} << 30);
}

}  // namespace dither
