// The types in which tensors are stored, and the choices of how to compute and round.
#pragma once

#include <cstdint>

namespace dither {

/// none: the tensor does not exist; int16: the lower half of an FP32 value (split32), which nothing computes with
/// alone; int64: counts and exact sums on their way between ranks.
enum class DType : uint8_t { none, bf16, fp32, int16, int64 };

constexpr int64_t size_of(DType type) {
  constexpr int64_t sizes[] = {0, 2, 4, 2, 8};
  return sizes[static_cast<int>(type)];
}
constexpr const char* name_of(DType type) {
  constexpr const char* names[] = {"none", "bf16", "fp32", "int16", "int64"};
  return names[static_cast<int>(type)];
}

enum class Rounding : uint8_t { nearest, stochastic };

/// In what an update computes: FP32 registers, or every single operation rounded to BF16.
enum class Math : uint8_t { fp32, bf16 };

}  // namespace dither
