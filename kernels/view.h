// A view says where a tensor lies in a backend's memory and as what type; who owns it and which shape it has is said
// where the view is declared. A default view is "absent".
#pragma once

#include <cstdint>

#include "kernels/numerics/bf16.h"
#include "kernels/numerics/dtype.h"
#include "kernels/numerics/host_device.h"

namespace dither {

struct View {
  void* data = nullptr;
  DType type = DType::none;

  explicit operator bool() const { return data != nullptr; }
  View at(int64_t element) const { return {static_cast<char*>(data) + element * size_of(type), type}; }
  Bf16* bf16() const { return static_cast<Bf16*>(data); }
  float* fp32() const { return static_cast<float*>(data); }
};

/// Element i becomes `value`, rounded to nearest where its type is narrower.
DITHER_HOST_DEVICE inline void put(View view, int64_t i, float value) {
  if (view.type == DType::fp32) static_cast<float*>(view.data)[i] = value;
  if (view.type == DType::bf16) static_cast<Bf16*>(view.data)[i] = round_nearest(value);
  if (view.type == DType::int16) static_cast<int16_t*>(view.data)[i] = static_cast<int16_t>(value);
}

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
