// The test program for a GPU. Tests of operations hand them their own vectors and variables, as the CPU's do: so the
// heap and the stack of this program lie in pinned memory, which the device reads and writes at the same addresses.
// With DITHER_SEPARATE_BLOCKS in the environment (scripts/check_gpu, memcheck) larger blocks are allocations of their
// own.
#define CATCH_CONFIG_RUNNER
#include <cuda_runtime_api.h>
#include <pthread.h>

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>

#include "tests/catch.h"

namespace {

constexpr size_t kHeapBytes = size_t{4} << 30;
constexpr size_t kStackBytes = size_t{64} << 20;
constexpr size_t kSeparateBytes = 1024;  // with DITHER_SEPARATE_BLOCKS: the tensors of tests, but for the smallest
constexpr size_t kHeaderBytes = 256;     // before each block: its size class; keeps blocks aligned to 256 bytes

/// Blocks of sizes that are powers of two, each size with a list of free ones.
class PinnedHeap {
 public:
  /// Throws nothing: a program without a device cannot run its tests.
  void begin() {
    void* memory = nullptr;
    const cudaError_t status = cudaMallocHost(&memory, kHeapBytes);
    if (status != cudaSuccess) {
      std::fprintf(stderr, "error: no pinned memory: %s\n", cudaGetErrorString(status));
      std::exit(2);
    }
    next_ = begin_ = static_cast<char*>(memory);
    separate_ = std::getenv("DITHER_SEPARATE_BLOCKS") != nullptr;
  }

  void* allocate(size_t bytes) {
    if (begin_ == nullptr) return std::malloc(bytes + kHeaderBytes);  // before main()
    if (separate_ && bytes >= kSeparateBytes) return separate(bytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t size = std::bit_ceil(bytes + kHeaderBytes), place = static_cast<size_t>(std::countr_zero(size));
    char* block = free_[place];
    if (block != nullptr) {
      free_[place] = *reinterpret_cast<char**>(block + kHeaderBytes);
    } else {
      if (next_ + size > begin_ + kHeapBytes) throw std::bad_alloc();
      block = next_;
      next_ += size;
    }
    *reinterpret_cast<size_t*>(block) = place;
    return block + kHeaderBytes;
  }

  void release(void* memory) {
    char* block = static_cast<char*>(memory);
    if (block == nullptr) return;
    if (separate_ && owned_alone(memory)) return;
    if (begin_ == nullptr || block < begin_ || block >= begin_ + kHeapBytes) return std::free(memory);
    const std::lock_guard<std::mutex> lock(mutex_);
    block -= kHeaderBytes;
    const size_t place = *reinterpret_cast<size_t*>(block);
    *reinterpret_cast<char**>(block + kHeaderBytes) = free_[place];
    free_[place] = block;
  }

 private:
  /// An allocation of the driver's own, so that compute-sanitizer knows where it ends.
  static void* separate(size_t bytes) {
    void* memory = nullptr;
    if (cudaMallocHost(&memory, bytes) != cudaSuccess) throw std::bad_alloc();
    return memory;
  }
  /// Whether it was one; then it is given back.
  bool owned_alone(void* memory) const {
    const char* place = static_cast<char*>(memory);
    if (begin_ != nullptr && place >= begin_ && place < begin_ + kHeapBytes) return false;
    cudaPointerAttributes attributes{};
    if (cudaPointerGetAttributes(&attributes, memory) != cudaSuccess || attributes.type != cudaMemoryTypeHost)
      return false;
    (void)cudaFreeHost(memory);
    return true;
  }

  bool separate_ = false;
  char* begin_ = nullptr;
  char* next_ = nullptr;
  char* free_[64] = {};
  std::mutex mutex_;
};

PinnedHeap& heap() {
  static PinnedHeap* made = new (std::malloc(sizeof(PinnedHeap))) PinnedHeap();  // outlives every static object
  return *made;
}

struct Program {
  int argc;
  char** argv;
  int status;
};

void* run_tests(void* argument) {
  auto* program = static_cast<Program*>(argument);
  program->status = Catch::Session().run(program->argc, program->argv);
  return nullptr;
}

}  // namespace

void* operator new(size_t bytes) { return heap().allocate(bytes); }
void* operator new(size_t bytes, std::align_val_t) { return heap().allocate(bytes); }
void operator delete(void* memory) noexcept { heap().release(memory); }
void operator delete(void* memory, size_t) noexcept { heap().release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { heap().release(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { heap().release(memory); }

int main(int argc, char** argv) {
  heap().begin();
  Program program{argc, argv, 1};
  pthread_attr_t attributes;
  pthread_t thread;
  pthread_attr_init(&attributes);
  pthread_attr_setstack(&attributes, heap().allocate(kStackBytes), kStackBytes);
  if (pthread_create(&thread, &attributes, run_tests, &program) != 0) return 2;
  pthread_join(thread, nullptr);
  return program.status;
}
