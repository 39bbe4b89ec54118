// The stand-ins for CUDA's calls: streams that run late, events, capture, memory. What a backend makes it must give
// back.
#include "tests/cuda_host/cuda_runtime.h"

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernels/forwarding_backend.h"
#include "tests/catch.h"

namespace dither {
namespace {

cudaStream_t new_stream() {
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  return stream;
}

/// Counts the operations that pass through it.
class CountingBackend final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  int operations = 0;

 private:
  void around(const Work& /*work*/, Stream /*stream*/, const std::function<void()>& run) override {
    ++operations;
    run();
  }
};

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

// Catches: a wait that is done when it is given, that runs more than it waits for, or that follows a later recording.
TEST_CASE("a stream that comes to a wait first runs the other one up to the event's place at the time of the call") {
  const cudaStream_t other = new_stream(), stream = new_stream();
  cudaEvent_t event = nullptr;
  REQUIRE(cudaEventCreate(&event) == cudaSuccess);
  REQUIRE(cudaStreamWaitEvent(stream, event) == cudaSuccess);  // never recorded: nothing to wait for
  std::string done;
  const auto give = [&](cudaStream_t to, const char* what) { cuda_host::enqueue(to, [&done, what] { done += what; }); };
  give(other, "a");
  REQUIRE(cudaEventRecord(event, other) == cudaSuccess);
  give(other, "b");
  give(stream, "x");
  REQUIRE(cudaStreamWaitEvent(stream, event) == cudaSuccess);
  give(stream, "y");
  REQUIRE(cudaEventRecord(event, other) == cudaSuccess);
  REQUIRE(cudaEventDestroy(event) == cudaSuccess);
  REQUIRE(done.empty());
  REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
  REQUIRE(done == "xay");
  REQUIRE(cudaStreamDestroy(other) == cudaSuccess);
  REQUIRE(done == "xayb");
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
}

// Catches: streams that hide a missing order() because one runs whenever another does.
TEST_CASE("without order() the second stream sees what was there before") {
  const auto backend = std::make_unique<CountingBackend>(make_cuda_backend(0));  // also: passes order() on
  void* memory = backend->allocate(4);
  const int written = 7;
  backend->copy_from_host(memory, &written, 4, backend->stream());
  const auto seen = [&] {
    int value = -1;
    backend->copy_to_host(&value, memory, 4, backend->second_stream());
    backend->synchronize(backend->second_stream());
    return value;
  };
  REQUIRE(seen() == 0);
  backend->order(backend->stream(), backend->second_stream());
  REQUIRE(seen() == 7);
  REQUIRE(backend->operations == 3);  // copies; order() is no operation
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

// Catches: a graph that holds the work in the order of the calls, so that a join too few would not show; a forked
// stream's work that is done while it is captured, or that stays in capture.
TEST_CASE("a capture takes in streams that wait for it, and a graph does their work as late as it may") {
  const cudaStream_t stream = new_stream(), forked = new_stream();
  cudaEvent_t event = nullptr;
  REQUIRE(cudaEventCreate(&event) == cudaSuccess);
  std::string done;
  const auto give = [&](cudaStream_t to, const char* what) { cuda_host::enqueue(to, [&done, what] { done += what; }); };
  const auto order = [&](cudaStream_t earlier, cudaStream_t later) {
    REQUIRE(cudaEventRecord(event, earlier) == cudaSuccess);
    REQUIRE(cudaStreamWaitEvent(later, event) == cudaSuccess);
  };
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  give(stream, "a");
  order(stream, forked);
  give(forked, "f");
  give(stream, "b");
  give(forked, "g");
  order(forked, stream);
  give(stream, "c");
  order(stream, forked);  // a second fork, joined where the capture ends
  give(forked, "h");
  give(stream, "d");
  order(forked, stream);
  REQUIRE(cudaStreamSynchronize(forked) == cudaErrorStreamCaptureUnsupported);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&exec, graph) == cudaSuccess);
  REQUIRE(cudaGraphLaunch(exec, stream) == cudaSuccess);
  REQUIRE(cudaStreamSynchronize(forked) == cudaSuccess);
  REQUIRE(done.empty());
  REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
  REQUIRE(done == "abfgcdh");
  REQUIRE(cudaGraphDestroy(graph) == cudaSuccess);
  REQUIRE(cudaGraphExecDestroy(exec) == cudaSuccess);
  REQUIRE(cudaEventDestroy(event) == cudaSuccess);
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
  REQUIRE(cudaStreamDestroy(forked) == cudaSuccess);
}

// Catches: a fork that is forgotten, a capture that mixes with another one or with what was given before it.
TEST_CASE("what must not cross the border of a capture is an error, and its streams work on afterwards") {
  const cudaStream_t stream = new_stream(), forked = new_stream(), other = new_stream();
  cudaEvent_t captured = nullptr, plain = nullptr;
  REQUIRE(cudaEventCreate(&captured) == cudaSuccess);
  REQUIRE(cudaEventCreate(&plain) == cudaSuccess);
  REQUIRE(cudaEventRecord(plain, other) == cudaSuccess);
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  REQUIRE(cudaStreamBeginCapture(other, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  REQUIRE(cudaEventRecord(captured, stream) == cudaSuccess);
  REQUIRE(cudaStreamWaitEvent(stream, plain) == cudaErrorStreamCaptureIsolation);
  REQUIRE(cudaStreamWaitEvent(other, captured) == cudaErrorStreamCaptureMerge);
  REQUIRE(cudaStreamWaitEvent(nullptr, captured) == cudaErrorStreamCaptureUnsupported);
  REQUIRE(cudaEventSynchronize(captured) == cudaErrorCapturedEvent);
  REQUIRE(cudaStreamWaitEvent(forked, captured) == cudaSuccess);
  int done = 0;
  cuda_host::enqueue(forked, [&] { ++done; });
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamEndCapture(forked, &graph) == cudaErrorStreamCaptureUnmatched);
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureUnjoined);
  REQUIRE(graph == nullptr);
  REQUIRE(cudaStreamWaitEvent(forked, captured) == cudaErrorCapturedEvent);
  REQUIRE(cudaStreamSynchronize(forked) == cudaSuccess);
  REQUIRE(done == 0);
  cuda_host::enqueue(forked, [&] { ++done; });
  REQUIRE(cudaStreamSynchronize(forked) == cudaSuccess);
  REQUIRE(done == 1);
  REQUIRE(cudaStreamEndCapture(other, &graph) == cudaSuccess);
  REQUIRE(cudaGraphDestroy(graph) == cudaSuccess);
  for (const cudaEvent_t event : {captured, plain}) REQUIRE(cudaEventDestroy(event) == cudaSuccess);
  for (const cudaStream_t each : {stream, forked, other}) REQUIRE(cudaStreamDestroy(each) == cudaSuccess);
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
