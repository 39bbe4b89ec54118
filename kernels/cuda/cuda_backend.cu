// What every operation of the CUDA backend stands on: the device, its memory, streams, copies and recorded work.
#include "kernels/cuda/cuda_backend.h"

#include <unistd.h>  // gethostname

#include <algorithm>
#include <cstdlib>  // getenv
#include <cstring>
#include <string>

#include "base/error.h"
#include "kernels/cuda/cublaslt.h"  // cublasLtGetVersion()
#include "kernels/cuda/kernels.h"
#include "kernels/operations/check.h"

namespace dither {

namespace {

cudaStream_t stream_of(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

/// Bytes as "1.5 GiB" or "20.0 MiB".
std::string size_text(int64_t bytes) {
  constexpr double kMiB = 1 << 20, kGiB = 1 << 30;
  const bool large = static_cast<double>(bytes) >= kGiB;
  const double tenths = static_cast<double>(bytes) / (large ? kGiB : kMiB) * 10;
  const auto rounded = static_cast<int64_t>(tenths + 0.5);
  return std::to_string(rounded / 10) + "." + std::to_string(rounded % 10) + (large ? " GiB" : " MiB");
}

/// 13000 as "13.0".
std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

namespace cuda {

Staging::Staging() {
  void* memory = nullptr;
  check_cuda(cudaMallocHost(&memory, kSlots * kSlotBytes), "pinned memory");
  memory_ = static_cast<char*>(memory);
  for (cudaEvent_t& event : read_) check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
}

Staging::~Staging() {
  for (cudaEvent_t event : read_) (void)cudaEventDestroy(event);
  (void)cudaFreeHost(memory_);
}

void Staging::copy(void* to, const void* from, int64_t bytes, cudaStream_t stream) {
  for (int64_t begin = 0; begin < bytes; begin += kSlotBytes) {
    const auto count = static_cast<size_t>(std::min(kSlotBytes, bytes - begin));
    const cudaEvent_t read = read_[next_];
    char* slot = memory_ + static_cast<int64_t>(next_) * kSlotBytes;
    next_ = (next_ + 1) % kSlots;
    check_cuda(cudaEventSynchronize(read), "copy_from_host");  // of a slot never used: at once
    std::memcpy(slot, static_cast<const char*>(from) + begin, count);
    check_cuda(cudaMemcpyAsync(static_cast<char*>(to) + begin, slot, count, cudaMemcpyDefault, stream),
               "copy_from_host");
    check_cuda(cudaEventRecord(read, stream), "copy_from_host");
  }
}

Recording::~Recording() {
  if (graph_ != nullptr) (void)cudaGraphExecDestroy(graph_);
}

void Recording::run(cudaStream_t stream, const std::function<void()>& work) {
  if (!known_) {
    work();
    known_ = true;
    return;
  }
  if (graph_ == nullptr) {
    cudaGraph_t graph = nullptr;
    check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "recording a step");
    try {
      work();
    } catch (...) {  // the stream must not stay in capture
      if (cudaStreamEndCapture(stream, &graph) == cudaSuccess) (void)cudaGraphDestroy(graph);
      throw;
    }
    check_cuda(cudaStreamEndCapture(stream, &graph), "recording a step");
    const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
    check_cuda(cudaGraphDestroy(graph), "recording a step");
    check_cuda(status, "recording a step");
  }
  check_cuda(cudaGraphLaunch(graph_, stream), "replaying a step");
}

}  // namespace cuda

CudaBackend::CudaBackend(int device) : device_(device) {
  const int devices = cuda_devices();
  if (devices == 0) {
    throw Error(
        "device is \"cuda\", but no CUDA device can be used here: see nvidia-smi and CUDA_VISIBLE_DEVICES; "
        "allowed without one: \"auto\", \"cpu\"");
  }
  for (const char* name : {"NVIDIA_TF32_OVERRIDE", "CUBLAS_EMULATE_SINGLE_PRECISION"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0' || *value == '0') continue;
    throw Error(std::string(name) + "=" + value +
                " changes how cuBLAS multiplies FP32 numbers, whatever a program asks " +
                "for: results would not be what the config says; unset it");
  }
  demand(device >= 0 && device < devices, "CUDA backend", "the device", device, "the number of one that exists");
  check_cuda(cudaSetDevice(device), "choosing the device");
  for (cudaStream_t* stream : {&stream_, &second_stream_}) {
    check_cuda(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), "a stream");
  }
  check_cuda(cudaEventCreateWithFlags(&order_, cudaEventDisableTiming), "an event");
  staging_ = std::make_unique<cuda::Staging>();
  products_ = std::make_unique<cuda::MatrixProducts>(allocate(cuda_workspace_bytes()));
}

CudaBackend::~CudaBackend() {
  for (cudaStream_t stream : {stream_, second_stream_}) (void)cudaStreamSynchronize(stream);
  recordings_.clear();
  products_.reset();
  staging_.reset();
  for (const auto& [memory, bytes] : allocations_) (void)cudaFree(memory);
  (void)cudaEventDestroy(order_);
  for (cudaStream_t stream : {stream_, second_stream_}) (void)cudaStreamDestroy(stream);
}

void CudaBackend::zero(void* memory, int64_t bytes, Stream stream) {
  check_cuda(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), stream_of(stream)), "zero");
}

void CudaBackend::copy_from_host(void* to, const void* from, int64_t bytes, Stream stream) {
  staging_->copy(to, from, bytes, stream_of(stream));
}

void CudaBackend::copy_to_host(void* to, const void* from, int64_t bytes, Stream stream) {
  check_cuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream_of(stream)),
             "copy_to_host");
}

void CudaBackend::synchronize(Stream stream) { check_cuda(cudaStreamSynchronize(stream_of(stream)), "synchronize"); }

void CudaBackend::order(Stream earlier, Stream later) {
  if (earlier.handle == later.handle) return;  // a stream keeps its own order
  check_cuda(cudaEventRecord(order_, stream_of(earlier)), "order");
  check_cuda(cudaStreamWaitEvent(stream_of(later), order_, 0), "order");
}

void CudaBackend::repeat(uint64_t key, Stream stream, const std::function<void()>& work) {
  recordings_[key].run(stream_of(stream), work);
}

void* CudaBackend::allocate(int64_t bytes) {
  demand(bytes >= 0, "allocate", "bytes", bytes, "at least 0");
  const int64_t wanted = std::max<int64_t>(bytes, 1);
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, static_cast<size_t>(wanted));
  if (status == cudaErrorMemoryAllocation) {
    throw Error("device memory: " + size_text(bytes) + " wanted, " + size_text(free_bytes()) + " free beside the " +
                size_text(allocated_bytes_) + " that this run holds; needs a smaller model, micro-batch or sequence");
  }
  check_cuda(status, "allocate");
  allocations_.emplace(memory, bytes);
  check_cuda(cudaMemsetAsync(memory, 0, static_cast<size_t>(wanted), stream_), "allocate");
  check_cuda(cudaStreamSynchronize(stream_), "allocate");  // whichever stream uses it first
  allocated_bytes_ += bytes;
  ++allocation_count_;
  return memory;
}

void CudaBackend::free(void* memory) {
  if (memory == nullptr) return;
  const auto found = allocations_.find(memory);
  DITHER_ASSERT(found != allocations_.end());
  allocated_bytes_ -= found->second;
  allocations_.erase(found);
  (void)cudaFree(memory);  // from destructors: after an error of the device it fails too, and hides the first
}

int64_t CudaBackend::free_bytes() const {
  size_t available = 0, total = 0;
  check_cuda(cudaMemGetInfo(&available, &total), "the device's free memory");
  return static_cast<int64_t>(available);
}

std::string CudaBackend::description() const {
  cudaDeviceProp device = {};
  int driver = 0, runtime = 0;
  check_cuda(cudaGetDeviceProperties(&device, device_), "the device's properties");
  check_cuda(cudaDriverGetVersion(&driver), "the driver's version");
  check_cuda(cudaRuntimeGetVersion(&runtime), "the runtime's version");
  return std::string(device.name) + ", compute capability " + std::to_string(device.major) + "." +
         std::to_string(device.minor) + ", driver for CUDA " + version_text(driver) + ", CUDA " +
         version_text(runtime) + ", " + size_text(free_bytes() + allocated_bytes_) + " of " +
         size_text(static_cast<int64_t>(device.totalGlobalMem)) + " free at the start";
}

std::string CudaBackend::arithmetic() const {
  cudaDeviceProp device = {};
  check_cuda(cudaGetDeviceProperties(&device, device_), "the device's properties");
  return std::string(device.name) + ", compute capability " + std::to_string(device.major) + "." +
         std::to_string(device.minor) + ", " + std::to_string(device.multiProcessorCount) +
         " multiprocessors, cuBLASLt " + std::to_string(cublasLtGetVersion());
}

std::string CudaBackend::device_id() const {
  char bus[32] = {}, host[256] = {};
  check_cuda(cudaDeviceGetPCIBusId(bus, sizeof(bus), device_), "the device's PCI bus id");
  DITHER_ASSERT(gethostname(host, sizeof(host) - 1) == 0);
  return std::string("PCI ") + bus + " of " + host;
}

int cuda_devices() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver) return 0;  // no device, or no driver
  check_cuda(status, "counting CUDA devices");
  return count;
}

std::unique_ptr<Backend> make_cuda_backend(int device) { return std::make_unique<CudaBackend>(device); }

int64_t cuda_workspace_bytes() { return cuda::MatrixProducts::kWorkspaceBytes; }

// The operations.
#define DITHER_KERNEL(operation, Op) \
  void CudaBackend::operation(const Op& op, Stream stream) { cuda::operation(op, stream); }
DITHER_KERNEL(embedding_forward, EmbeddingForward)
DITHER_KERNEL(embedding_backward, EmbeddingBackward)
DITHER_KERNEL(residual_norm_forward, ResidualNormForward)
DITHER_KERNEL(residual_norm_backward, ResidualNormBackward)
DITHER_KERNEL(rotary_forward, RotaryForward)
DITHER_KERNEL(rotary_backward, RotaryBackward)
DITHER_KERNEL(attention_forward, AttentionForward)
DITHER_KERNEL(attention_backward, AttentionBackward)
DITHER_KERNEL(gelu_forward, GeluForward)
DITHER_KERNEL(gelu_backward, GeluBackward)
DITHER_KERNEL(swiglu_forward, SwigluForward)
DITHER_KERNEL(swiglu_backward, SwigluBackward)
DITHER_KERNEL(cross_entropy, CrossEntropy)
DITHER_KERNEL(sum_losses, SumLosses)
DITHER_KERNEL(initialise, Initialise)
DITHER_KERNEL(accumulate, Accumulate)
DITHER_KERNEL(squared_norm, SquaredNorm)
DITHER_KERNEL(decide_step, DecideStep)
DITHER_KERNEL(adamw, AdamW)
#undef DITHER_KERNEL

void CudaBackend::copy(View to, ConstView from, int64_t elements, Stream stream) {
  cuda::copy(to, from, elements, stream);
}
void CudaBackend::linear_forward(const LinearForward& op, Stream stream) { products_->forward(op, stream); }
void CudaBackend::linear_input_gradient(const LinearInputGradient& op, Stream stream) {
  products_->input_gradient(op, stream);
}
void CudaBackend::linear_weight_gradient(const LinearWeightGradient& op, Stream stream) {
  products_->weight_gradient(op, stream);
}

}  // namespace dither
