// The memory of a run by part, computed without allocating, and the one way in which buffers are laid out.
//
// A component lists its buffers in one function that takes an Arena. With no memory behind it the arena only counts:
// that is the plan. With memory it hands out the same places. So the plan equals what is allocated by construction.
#pragma once

#include <cstdint>

#include "kernels/view.h"

namespace dither {

struct MemoryPlan {
  int64_t parameters = 0;       // weights as forward and backward read them
  int64_t gradients = 0;        // accumulated over micro-batches
  int64_t optimizer_state = 0;  // extra components, master weights, moments
  int64_t activations = 0;      // kept from forward to backward
  int64_t workspace = 0;        // gradient scratch, temporaries of backward, logits chunk, tables

  int64_t total() const { return parameters + gradients + optimizer_state + activations + workspace; }
};

class Arena {
 public:
  /// `memory` null: only counts.
  explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}

  View tensor(int64_t elements, DType type) { return {take(elements * size_of(type)), type}; }
  template <class T>
  T* array(int64_t elements) {
    return static_cast<T*>(take(elements * static_cast<int64_t>(sizeof(T))));
  }
  void* take(int64_t bytes) {
    void* place = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return place;
  }
  int64_t bytes() const { return used_; }

 private:
  static constexpr int64_t kAlignment = 256;  // a multiple of every vector load and cache line in use
  char* memory_;
  int64_t used_ = 0;
};

}  // namespace dither
