// The types in which tensors are stored, and the choices of how to compute and round.
#pragma once

#include <cstdint>

namespace dither {

enum class DType : uint8_t { none, bf16, fp32 };  // none: the tensor does not exist

constexpr int64_t size_of(DType type) { return type == DType::fp32 ? 4 : type == DType::bf16 ? 2 : 0; }
constexpr const char* name_of(DType type) {
  return type == DType::fp32 ? "fp32" : type == DType::bf16 ? "bf16" : "none";
}

enum class Rounding : uint8_t { nearest, stochastic };

/// In what an update computes: FP32 registers, or every single operation rounded to BF16.
enum class Math : uint8_t { fp32, bf16 };

}  // namespace dither
