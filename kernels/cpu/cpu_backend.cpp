// What every operation of the CPU backend stands on: threads, memory and copies. There is no queue: each operation is
// done when its call returns.
#include "kernels/cpu/cpu_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/free_memory.h"
#include "kernels/cpu/matrix_product.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector.h"
#include "kernels/operations/check.h"
#include "kernels/threads.h"

namespace dither {

namespace {

constexpr size_t kAlignment = 256;       // whole cache lines, and what CUDA hands out
constexpr int64_t kCopyGrain = 1 << 18;  // bytes or elements a thread takes at a time

double mebibytes(int64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

}  // namespace

CpuBackend::CpuBackend(int threads) : threads_(threads > 0 ? threads : usable_threads().threads) {
  demand_threads(threads_);
  product_ = std::make_unique<MatrixProduct>(threads_);
}

CpuBackend::~CpuBackend() {
  for (const auto& [memory, bytes] : allocations_) std::free(memory);
}

void CpuBackend::copy(View to, ConstView from, int64_t elements, Stream stream) {
  demand(elements >= 0, "copy", "elements", elements, "at least 0");
  if (elements == 0) return;
  demand_float("copy", "to", to);
  demand_float("copy", "from", from);
  if (to.type == from.type) {
    copy_from_host(to.data, from.data, elements * size_of(to.type), stream);
    return;
  }
  with_type(to.type, [&]<class To>(To) {
    with_type(from.type, [&]<class From>(From) {
      parallel_ranges(threads_, elements, kCopyGrain, [&](int64_t begin, int64_t end) {
        To* out = data_of<To>(to);
        const From* in = data_of<From>(from);
        int64_t i = begin;
        for (; i + kLanes <= end; i += kLanes) store(out + i, load(in + i));
        for (; i < end; ++i) out[i] = rounded<To>(widened(in[i]));
      });
    });
  });
}

void CpuBackend::zero(void* memory, int64_t bytes, Stream /*stream*/) {
  parallel_ranges(threads_, bytes, kCopyGrain, [&](int64_t begin, int64_t end) {
    std::memset(static_cast<char*>(memory) + begin, 0, static_cast<size_t>(end - begin));
  });
}

void CpuBackend::copy_from_host(void* to, const void* from, int64_t bytes, Stream /*stream*/) {
  parallel_ranges(threads_, bytes, kCopyGrain, [&](int64_t begin, int64_t end) {
    std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin,
                static_cast<size_t>(end - begin));
  });
}

void CpuBackend::copy_to_host(void* to, const void* from, int64_t bytes, Stream stream) {
  copy_from_host(to, from, bytes, stream);  // host memory on both sides
}

void CpuBackend::synchronize(Stream /*stream*/) {}

void* CpuBackend::allocate(int64_t bytes) {
  demand(bytes >= 0, "allocate", "bytes", bytes, "at least 0");
  const FreeMemory available = free_memory();
  const auto wanted = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  if (available.bytes >= 0 && bytes > available.bytes) {
    throw Error(
        fmt::format("CPU memory: {:.1f} MiB wanted, {:.1f} MiB available ({}) beside the {:.1f} MiB that this run "
                    "holds; needs a smaller model, micro-batch or sequence",
                    mebibytes(bytes), mebibytes(available.bytes), available.limit, mebibytes(allocated_bytes_)));
  }
  void* memory = std::aligned_alloc(kAlignment, (wanted + kAlignment - 1) / kAlignment * kAlignment);
  if (memory == nullptr) {
    throw Error(fmt::format("CPU memory: the system refuses {:.1f} MiB beside the {:.1f} MiB that this run holds: {}",
                            mebibytes(bytes), mebibytes(allocated_bytes_), refusal_causes()));
  }
  zero(memory, bytes, {});
  allocations_.emplace(memory, bytes);
  allocated_bytes_ += bytes;
  ++allocation_count_;
  return memory;
}

void CpuBackend::free(void* memory) {
  if (memory == nullptr) return;
  const auto found = allocations_.find(memory);
  DITHER_ASSERT(found != allocations_.end());
  allocated_bytes_ -= found->second;
  allocations_.erase(found);
  std::free(memory);
}

int64_t CpuBackend::free_bytes() const { return free_memory_bytes(); }

std::string CpuBackend::description() const {
  return fmt::format("CPU, {} thread{}, {}", threads_, threads_ == 1 ? "" : "s", product_->description());
}

std::string CpuBackend::arithmetic() const { return "CPU, " + product_->description(); }

std::unique_ptr<Backend> make_cpu_backend(int threads) {
  demand(threads >= 0, "CPU backend", "the number of threads", threads, "at least 0 (0 = all cores)");
  return std::make_unique<CpuBackend>(threads);
}

}  // namespace dither
