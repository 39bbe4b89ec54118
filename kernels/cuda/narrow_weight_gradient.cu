// The weight gradient of FP32 operands in BF16: the one combination of types of a linear layer that cuBLASLt has no
// product for (FP32 operands have FP32 results there, and no memory is left for those).
//
//   dW[o,i] = RN(sum_n dy[n,o] x[n,i])
//
// Shapes  dy FP32 [N,O], x FP32 [N,I], dW BF16 [O,I]. O % 8 == 0, I % 8 == 0.
// Launch  a thread for 8 x 8 results; block (32, 4): a warp has 256 neighbouring i, so x is read in whole lines and dy
//         by all lanes at once. No shared memory, no barrier.
// Order   n rising, from 0, each product rounded: the bits depend on the inputs alone.
// Floor   2 N I O operations in FP32 units at two instructions a product. Rare: a run whose activations are FP32 and
//         whose gradients are BF16; written to be right, not tuned.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matrix_product.h"
#include "kernels/cuda/vector.h"

namespace dither {
namespace {

constexpr int kWarps = 4;

__global__ void __launch_bounds__(kWarpLanes* kWarps)
    narrow_weight_gradient_kernel(Bf16* d_weight, const float* dy, const float* x, int64_t N, int64_t I, int64_t O,
                                  unsigned parts) {
  const int64_t i = int64_t{blockIdx.x % parts * kWarpLanes + threadIdx.x} * 8;
  const int64_t o = int64_t{blockIdx.x / parts * kWarps + threadIdx.y} * 8;
  if (i >= I || o >= O) return;
  float sums[8][8] = {};
  for (int64_t n = 0; n < N; ++n) {
    float left[8], right[8];
    load8(dy + n * O + o, left);
    load8(x + n * I + i, right);
    DITHER_UNROLL
    for (int row = 0; row < 8; ++row) {
      DITHER_UNROLL
      for (int column = 0; column < 8; ++column) sums[row][column] += left[row] * right[column];
    }
  }
  DITHER_UNROLL
  for (int row = 0; row < 8; ++row) store8(d_weight + (o + row) * I + i, sums[row]);
}

}  // namespace

namespace cuda {

void narrow_weight_gradient(const LinearWeightGradient& op, Stream stream) {
  const unsigned parts = blocks_of(op.I, 8 * kWarpLanes);
  launch({"linear_weight_gradient", parts * blocks_of(op.O, 8 * kWarps), dim3(kWarpLanes, kWarps)}, stream,
         narrow_weight_gradient_kernel, op.d_weight.bf16(), op.dy.fp32(), op.x.fp32(), op.N, op.I, op.O, parts);
}

}  // namespace cuda
}  // namespace dither
