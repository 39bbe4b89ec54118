// What the CUDA backend allocates for itself, known to programs built without CUDA too: they plan for machines that
// have it.
#pragma once

#include <cstdint>

namespace dither {

/// Of its matrix products, beside their operands: NVIDIA's advice for Hopper.
constexpr int64_t kCudaWorkspaceBytes = int64_t{32} << 20;

}  // namespace dither
