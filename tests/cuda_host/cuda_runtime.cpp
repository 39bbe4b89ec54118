#include "tests/cuda_host/cuda_runtime.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
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

struct CudaHostStream {
  std::deque<Work> queue;
  uint64_t given = 0, done = 0;  // pieces of work, since the stream was made
  CudaHostGraph* captured = nullptr;

  void run_until(uint64_t target) {
    while (done < target) {
      Work next = std::move(queue.front());
      queue.pop_front();
      ++done;
      next();
    }
  }
};

struct CudaHostEvent {
  CudaHostStream* stream = nullptr;  // it was last recorded in; null: never, or in the null stream
  uint64_t place = 0;                // pieces of work before it
  Clock::time_point time;            // when the stream came to it
  bool recorded = false;
};

namespace {

constexpr unsigned char kPoison = 0xFF;
constexpr size_t kAlignment = 256;

int g_devices = 1;
size_t g_memory = size_t{64} << 30;
size_t g_used = 0;
std::map<void*, size_t> g_allocations;
std::set<void*> g_pinned;
std::set<CudaHostStream*> g_streams;
size_t g_events = 0, g_graphs = 0;

void* poisoned(size_t bytes) {
  const size_t whole = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  void* memory = std::aligned_alloc(kAlignment, whole);
  if (memory != nullptr) std::memset(memory, kPoison, whole);
  return memory;
}

void run_everything() {
  for (CudaHostStream* stream : g_streams) stream->run_until(stream->given);
}

bool capturing() {
  for (const CudaHostStream* stream : g_streams) {
    if (stream->captured != nullptr) return true;
  }
  return false;
}

bool unknown(cudaStream_t stream) { return stream != nullptr && g_streams.count(stream) == 0; }

}  // namespace

namespace dither::cuda_host {

void enqueue(CudaHostStream* stream, std::function<void()> work) {
  if (stream == nullptr) {
    run_everything();
    work();
  } else if (stream->captured != nullptr) {
    stream->captured->work.push_back(std::move(work));
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
  *stream = new CudaHostStream();
  g_streams.insert(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr || unknown(stream)) return cudaErrorInvalidResourceHandle;
  stream->run_until(stream->given);
  g_streams.erase(stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (unknown(stream)) return cudaErrorInvalidResourceHandle;
  if (stream == nullptr) return cudaDeviceSynchronize();
  if (stream->captured != nullptr) return cudaErrorStreamCaptureUnsupported;
  stream->run_until(stream->given);
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  if (capturing()) return cudaErrorStreamCaptureUnsupported;
  run_everything();
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
  cudaEventSynchronize(event);  // the stream still holds its address
  --g_events;
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (unknown(stream) || event == nullptr) return cudaErrorInvalidResourceHandle;
  if (stream != nullptr && stream->captured != nullptr) return cudaErrorStreamCaptureUnsupported;
  enqueue(stream, [event] { event->time = Clock::now(); });
  event->stream = stream;
  event->place = stream == nullptr ? 0 : stream->given;
  event->recorded = true;
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event == nullptr) return cudaErrorInvalidResourceHandle;
  if (event->recorded && event->stream != nullptr && !unknown(event->stream)) event->stream->run_until(event->place);
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (begin == nullptr || end == nullptr || !begin->recorded || !end->recorded) return cudaErrorInvalidResourceHandle;
  for (const CudaHostEvent* event : {begin, end}) {
    if (event->stream != nullptr && event->stream->done < event->place) return cudaErrorNotReady;
  }
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr) return cudaErrorStreamCaptureUnsupported;  // the legacy stream cannot be captured
  if (unknown(stream) || stream->captured != nullptr) return cudaErrorInvalidResourceHandle;
  stream->captured = new CudaHostGraph();
  ++g_graphs;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (stream == nullptr || unknown(stream) || stream->captured == nullptr) return cudaErrorInvalidResourceHandle;
  *graph = std::exchange(stream->captured, nullptr);
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
