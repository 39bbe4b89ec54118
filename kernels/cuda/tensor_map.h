// Descriptions of tensors in global memory for Hopper's bulk copies (TMA): with one of them, a kernel names a box by
// the place of its first element and the hardware computes all addresses.
//
// A box of BF16 [box[3], box[2], box[1], 64] becomes rows of 128 bytes in shared memory, which begins at a multiple of
// 1,024 bytes; the 16 bytes of chunk j in row r lie at chunk j ^ r % 8 (the 128-byte swizzle), so that neither reading
// rows nor reading columns meets a bank twice. What lies outside of the tensor arrives as zeros.
#pragma once

#include <cstdint>

namespace dither {

/// What cuTensorMapEncodeTiled writes. A kernel takes it as a parameter `const __grid_constant__ TensorMap`: the copy
/// engine reads it there.
struct alignas(128) TensorMap {
  uint64_t words[16];
};

constexpr int kBoxColumns = 64;  // 128 bytes of BF16: the widest row that the swizzle takes

struct TiledTensor {
  const void* memory;       // BF16, at a multiple of 16 bytes
  int64_t sizes[4];         // elements, the contiguous dimension first
  int64_t stride_bytes[3];  // of the others, multiples of 16
  int boxes[3];             // elements of a box in the others, at most 256; kBoxColumns in the contiguous one
};

/// Throws Error, beginning with the operation's name, where the driver refuses.
TensorMap tensor_map(const TiledTensor& tensor, const char* operation);

}  // namespace dither
