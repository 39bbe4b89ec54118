// A view says where a tensor lies in a backend's memory and as what type; who owns it and which shape it has is said
// where the view is declared. A default view is "absent".
#pragma once

#include <cstdint>

#include "kernels/numerics/bf16.h"
#include "kernels/numerics/dtype.h"

namespace dither {

struct View {
  void* data = nullptr;
  DType type = DType::none;

  explicit operator bool() const { return data != nullptr; }
  View at(int64_t element) const { return {static_cast<char*>(data) + element * size_of(type), type}; }
  Bf16* bf16() const { return static_cast<Bf16*>(data); }
  float* fp32() const { return static_cast<float*>(data); }
};

struct ConstView {
  const void* data = nullptr;
  DType type = DType::none;

  ConstView() = default;
  ConstView(const void* memory, DType stored) : data(memory), type(stored) {}
  ConstView(View view) : data(view.data), type(view.type) {}  // NOLINT: what may be written may be read

  explicit operator bool() const { return data != nullptr; }
  ConstView at(int64_t element) const { return {static_cast<const char*>(data) + element * size_of(type), type}; }
  const Bf16* bf16() const { return static_cast<const Bf16*>(data); }
  const float* fp32() const { return static_cast<const float*>(data); }
};

/// An ordered queue of operations. The CPU runs them at once and ignores it; CUDA keeps its stream in `handle`.
struct Stream {
  void* handle = nullptr;
};

}  // namespace dither
