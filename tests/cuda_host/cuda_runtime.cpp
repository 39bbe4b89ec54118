// How the stand-ins of the CUDA runtime work: queues that run when somebody waits for them, marks in them, captures.
//
// A stream is a queue. Its work is done up to some place when somebody waits for that place: the host, or another
// stream that comes to a piece of work that waits (cudaStreamWaitEvent). A capture is a set of nodes, each with those
// it must follow; a graph is the same nodes in the latest order that these allow: what one stream alone gave in its
// order, what another gave only when a node waits for it. So work that is not ordered, but should be, comes too late.
#include "tests/cuda_host/cuda_runtime.h"

#include <unistd.h>
#include <algorithm>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

using Work = std::function<void()>;
using Clock = std::chrono::steady_clock;

struct CudaHostGraph {
  std::vector<Work> work;
};
struct CudaHostGraphExec {
  std::vector<Work> work;
};

using Nodes = std::vector<size_t>;

struct Capture {
  struct Node {
    Work work;
    Nodes behind;  // nodes that it follows, those of its own stream first
  };
  CudaHostStream* origin;  // that it began in
  std::vector<Node> nodes;
  bool open = true;
};

struct CudaHostStream {
  std::deque<Work> queue;
  uint64_t given = 0, done = 0;      // pieces of work, since the stream was made
  std::shared_ptr<Capture> capture;  // that it is part of
  Nodes last;                        // ... and the nodes that its next one will follow

  void run_until(uint64_t target) {
    while (done < target) {
      Work next = std::move(queue.front());
      queue.pop_front();
      ++done;
      next();
    }
  }
};

/// A place in a stream, as one recording of an event made it.
struct Mark {
  std::shared_ptr<CudaHostStream> stream;  // null: the null stream, whose work is done at once
  uint64_t place = 0;                      // pieces of work before it
  Clock::time_point time;                  // when the stream came to it
  std::shared_ptr<Capture> capture;        // that the stream was part of; then place and time mean nothing
  Nodes last;                              // ... and the nodes before the mark

  void reach() const {
    if (stream != nullptr) stream->run_until(place);
  }
};

struct CudaHostEvent {
  std::shared_ptr<Mark> mark;  // of its last recording; null: none
};

namespace {

constexpr unsigned char kPoison = 0xFF;
constexpr size_t kAlignment = 256;

int g_devices = 1;
size_t g_memory = size_t{64} << 30;
size_t g_used = 0;
std::map<void*, size_t> g_allocations;
std::set<void*> g_pinned;
std::map<CudaHostStream*, std::shared_ptr<CudaHostStream>> g_streams;
size_t g_events = 0, g_graphs = 0;

void* poisoned(size_t bytes) {
  const size_t whole = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  void* memory = std::aligned_alloc(kAlignment, whole);
  if (memory != nullptr) std::memset(memory, kPoison, whole);
  return memory;
}

void run_everything() {
  for (const auto& [stream, owner] : g_streams) stream->run_until(stream->given);
}

bool capturing() {
  return std::any_of(g_streams.begin(), g_streams.end(), [](const auto& s) { return s.first->capture != nullptr; });
}

bool unknown(cudaStream_t stream) { return stream != nullptr && g_streams.count(stream) == 0; }

/// The stream's next node follows these too.
void follow(Nodes& last, const Nodes& others) {
  for (const size_t node : others) {
    if (std::find(last.begin(), last.end(), node) == last.end()) last.push_back(node);
  }
}

/// The capture's nodes that lead to `ends`, in the latest order: before a node comes what it follows, and nothing else.
Nodes latest_order(const Capture& capture, const Nodes& ends) {
  Nodes order, waiting(ends.rbegin(), ends.rend());  // the last one of `waiting` is next
  std::vector<bool> placed(capture.nodes.size(), false);
  while (!waiting.empty()) {
    const size_t node = waiting.back();
    const Nodes& behind = capture.nodes[node].behind;
    const auto missing = std::find_if(behind.begin(), behind.end(), [&](size_t other) { return !placed[other]; });
    if (!placed[node] && missing != behind.end()) {
      waiting.push_back(*missing);
      continue;
    }
    if (!placed[node]) order.push_back(node);
    placed[node] = true;
    waiting.pop_back();
  }
  return order;
}

}  // namespace

namespace dither::cuda_host {

void enqueue(CudaHostStream* stream, std::function<void()> work) {
  if (stream == nullptr) {
    run_everything();
    work();
  } else if (stream->capture != nullptr) {
    stream->capture->nodes.push_back({std::move(work), stream->last});
    stream->last = {stream->capture->nodes.size() - 1};
  } else {
    stream->queue.push_back(std::move(work));
    ++stream->given;
  }
}

void set_devices(int count) { g_devices = count; }
void set_device_memory(size_t bytes) { g_memory = bytes; }
size_t live_objects() { return g_allocations.size() + g_pinned.size() + g_streams.size() + g_events + g_graphs; }

}  // namespace dither::cuda_host

using dither::cuda_host::enqueue;

const char* cudaGetErrorName(cudaError_t status) {
  switch (status) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureMerge:
      return "cudaErrorStreamCaptureMerge";
    case cudaErrorStreamCaptureUnmatched:
      return "cudaErrorStreamCaptureUnmatched";
    case cudaErrorStreamCaptureUnjoined:
      return "cudaErrorStreamCaptureUnjoined";
    case cudaErrorStreamCaptureIsolation:
      return "cudaErrorStreamCaptureIsolation";
    case cudaErrorCapturedEvent:
      return "cudaErrorCapturedEvent";
  }
  return "an unknown error";
}

const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureMerge:
      return "operation would cause the merge of two capture sequences";
    case cudaErrorStreamCaptureUnmatched:
      return "capture was not begun in this stream";
    case cudaErrorStreamCaptureUnjoined:
      return "capture has a fork that was not joined";
    case cudaErrorStreamCaptureIsolation:
      return "dependency on uncaptured work";
    case cudaErrorCapturedEvent:
      return "operation not permitted on an event of a capture";
  }
  return "an unknown error";
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = g_devices;
  return g_devices > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device) {
  return device >= 0 && device < g_devices ? cudaSuccess : cudaErrorInvalidDevice;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (cudaSetDevice(device) != cudaSuccess) return cudaErrorInvalidDevice;
  *properties = {"host execution", 9, 0, 2, g_memory};
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  if (cudaSetDevice(device) != cudaSuccess) return cudaErrorInvalidDevice;
  // The host has memory enough for all its processes: each gets a device of its own, named after it.
  return std::snprintf(text, static_cast<size_t>(length), "host:%d", static_cast<int>(getpid())) < length
             ? cudaSuccess
             : cudaErrorInvalidValue;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = g_memory > g_used ? g_memory - g_used : 0;
  *total_bytes = g_memory;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (capturing()) return cudaErrorStreamCaptureUnsupported;
  *memory = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (g_used + bytes > g_memory) return cudaErrorMemoryAllocation;
  *memory = poisoned(bytes);
  if (*memory == nullptr) return cudaErrorMemoryAllocation;
  g_allocations[*memory] = bytes;
  g_used += bytes;
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {  // waits for the device, as CUDA's does
  if (capturing()) return cudaErrorStreamCaptureUnsupported;
  if (memory == nullptr) return cudaSuccess;
  const auto found = g_allocations.find(memory);
  if (found == g_allocations.end()) return cudaErrorInvalidValue;
  run_everything();
  g_used -= found->second;
  g_allocations.erase(found);
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  if (capturing()) return cudaErrorStreamCaptureUnsupported;
  *memory = poisoned(bytes);
  if (*memory == nullptr) return cudaErrorMemoryAllocation;
  g_pinned.insert(*memory);
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* memory) {
  if (capturing()) return cudaErrorStreamCaptureUnsupported;
  if (memory == nullptr) return cudaSuccess;
  if (g_pinned.erase(memory) == 0) return cudaErrorInvalidValue;
  run_everything();
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  if (unknown(stream)) return cudaErrorInvalidResourceHandle;
  enqueue(stream, [=] { std::memset(memory, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  if (unknown(stream)) return cudaErrorInvalidResourceHandle;
  enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  auto made = std::make_shared<CudaHostStream>();
  *stream = made.get();
  g_streams[*stream] = std::move(made);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr || unknown(stream)) return cudaErrorInvalidResourceHandle;
  stream->run_until(stream->given);
  g_streams.erase(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (unknown(stream)) return cudaErrorInvalidResourceHandle;
  if (stream == nullptr) return cudaDeviceSynchronize();
  if (stream->capture != nullptr) return cudaErrorStreamCaptureUnsupported;
  stream->run_until(stream->given);
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  if (capturing()) return cudaErrorStreamCaptureUnsupported;
  run_everything();
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (unknown(stream) || event == nullptr) return cudaErrorInvalidResourceHandle;
  const std::shared_ptr<Mark> mark = event->mark;  // a later recording changes nothing for this wait
  if (mark == nullptr) return cudaSuccess;
  if (mark->capture == nullptr) {
    if (stream != nullptr && stream->capture != nullptr) return cudaErrorStreamCaptureIsolation;
    enqueue(stream, [mark] { mark->reach(); });
    return cudaSuccess;
  }
  if (stream == nullptr) return cudaErrorStreamCaptureUnsupported;
  if (!mark->capture->open) return cudaErrorCapturedEvent;
  if (stream->capture != nullptr && stream->capture != mark->capture) return cudaErrorStreamCaptureMerge;
  if (stream->capture == nullptr) stream->last.clear();
  stream->capture = mark->capture;
  follow(stream->last, mark->last);
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CudaHostEvent();
  ++g_events;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (event == nullptr) return cudaErrorInvalidResourceHandle;
  --g_events;
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (unknown(stream) || event == nullptr) return cudaErrorInvalidResourceHandle;
  auto mark = std::make_shared<Mark>();
  event->mark = mark;
  if (stream != nullptr && stream->capture != nullptr) {
    mark->capture = stream->capture;
    mark->last = stream->last;
    return cudaSuccess;
  }
  enqueue(stream, [mark] { mark->time = Clock::now(); });
  if (stream != nullptr) mark->stream = g_streams.at(stream);
  mark->place = stream == nullptr ? 0 : stream->given;
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event == nullptr) return cudaErrorInvalidResourceHandle;
  if (event->mark == nullptr) return cudaSuccess;
  if (event->mark->capture != nullptr) return cudaErrorCapturedEvent;
  event->mark->reach();
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  for (const CudaHostEvent* event : {begin, end}) {
    if (event == nullptr || event->mark == nullptr) return cudaErrorInvalidResourceHandle;
    if (event->mark->capture != nullptr) return cudaErrorCapturedEvent;
    if (event->mark->stream != nullptr && event->mark->stream->done < event->mark->place) return cudaErrorNotReady;
  }
  *milliseconds = std::chrono::duration<float, std::milli>(end->mark->time - begin->mark->time).count();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr) return cudaErrorStreamCaptureUnsupported;  // the legacy stream cannot be captured
  if (unknown(stream) || stream->capture != nullptr) return cudaErrorInvalidResourceHandle;
  stream->capture = std::make_shared<Capture>(Capture{stream, {}, true});
  stream->last.clear();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (stream == nullptr || unknown(stream) || stream->capture == nullptr) return cudaErrorInvalidResourceHandle;
  const std::shared_ptr<Capture> capture = stream->capture;
  if (capture->origin != stream) return cudaErrorStreamCaptureUnmatched;
  for (const auto& [member, owner] : g_streams) {
    if (member->capture == capture) member->capture = nullptr;
  }
  capture->open = false;
  *graph = nullptr;
  const Nodes order = latest_order(*capture, stream->last);
  if (order.size() < capture->nodes.size()) return cudaErrorStreamCaptureUnjoined;
  *graph = new CudaHostGraph();
  for (const size_t node : order) (*graph)->work.push_back(std::move(capture->nodes[node].work));
  ++g_graphs;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CudaHostGraphExec{graph->work};
  ++g_graphs;
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  if (unknown(stream) || exec == nullptr) return cudaErrorInvalidResourceHandle;
  for (const Work& work : exec->work) enqueue(stream, work);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  --g_graphs;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  --g_graphs;
  return cudaSuccess;
}
