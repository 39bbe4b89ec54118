// Copies parts of matrices into the layouts that tiles read (tile_kernel.h), widened to FP32 where the kernel wants it
// and filled up with zeros. Values never change: BF16 to FP32 is exact.
#pragma once

#include <cstdint>

#include "kernels/view.h"

namespace dither {

/// Which index of an operand of C[m,n] = sum_k A[m,k] B[k,n] lies contiguous.
enum class Contiguous : uint8_t {
  contracted,  // k: A[m * stride + k], B[n * stride + k]
  free,        // m or n: A[k * stride + m], B[k * stride + n]
};

struct Matrix {
  ConstView data;
  int64_t stride;
  Contiguous contiguous;
};

/// What to copy: `count` rows of A or columns of B from `first` on, and `k` contracted indices from `first_k` on.
struct MatrixPart {
  int64_t first, count, first_k, k;
  int64_t padded_k;  // k rounded up to kTileStep; what lies behind k becomes zero
};

/// out [count, padded_k]
void pack_rows(void* out, DType type, const Matrix& a, const MatrixPart& part);

/// out BF16 [padded_k/2, 64, 2] or FP32 [padded_k, 64]; columns behind count (at most 64) become zero.
void pack_columns(void* out, DType type, const Matrix& b, const MatrixPart& part);

}  // namespace dither
