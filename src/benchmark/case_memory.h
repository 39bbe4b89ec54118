// The tensors of one call of the benchmark, laid out and filled: the same requests first count, then fill, then name
// the places in a copy of what was filled.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "src/model/memory_plan.h"  // Arena

namespace dither {

class CaseMemory {
 public:
  /// Only counts. What it hands out is present, so that an operation can be asked for its workspace, but not memory.
  CaseMemory() : arena_(nullptr) {}
  /// Fills `memory`, which is zeroed and of the bytes that were counted.
  CaseMemory(void* memory, Backend& backend) : arena_(memory), memory_(memory), backend_(&backend) {}
  /// `memory` is a copy of memory that was filled.
  explicit CaseMemory(void* memory) : arena_(memory), memory_(memory) {}

  View zeros(int64_t elements, DType type) { return {take(elements * size_of(type)), type}; }
  View random(int64_t elements, DType type, double mean = 0, double deviation = 1);
  float* random_fp32(int64_t elements, double mean = 0, double deviation = 1) {
    return random(elements, DType::fp32, mean, deviation).fp32();
  }
  float* zeros_fp32(int64_t elements) { return zeros(elements, DType::fp32).fp32(); }
  /// Integers below `limit`, all equally likely.
  int32_t* random_below(int64_t elements, int64_t limit);
  void* workspace(int64_t bytes) { return take(bytes); }
  template <class T>
  T* from_host(const std::vector<T>& values) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    void* place = take(bytes);
    if (backend_ != nullptr) backend_->copy_from_host(place, values.data(), bytes, backend_->stream());
    return static_cast<T*>(place);
  }

  int64_t bytes() const { return arena_.bytes(); }
  /// The backend that fills; null where nothing is to be filled.
  Backend* backend() const { return backend_; }

 private:
  void* take(int64_t bytes);

  Arena arena_;
  void* memory_ = nullptr;
  Backend* backend_ = nullptr;
};

}  // namespace dither
