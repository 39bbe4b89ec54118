// Residual add and normalisation on the GPU: LayerNorm where `mean` is given, else RMSNorm.
//
//   forward   h = RN(x + r);  m = mean(h) or 0;  s = 1 / sqrt(mean((h - m)^2) + eps);  y = RN((h - m) * s * w + bias)
//   backward  z = (h - m) * s;  g = dy * w;  dx = RN(dh + s * (g - mean(g) - z * mean(g * z))), without mean(g) for
//             RMS;  d_weight = sum_n dy * z;  d_bias = sum_n dy
//
// Shapes  x, h, dh, dx [N,C] of type R; r, y, dy [N,C] of type A; w, bias [C] of type W; d_weight, d_bias [C];
//         mean, rstd FP32 [N]. h may be x, dx may be dh. C % 8 == 0.
// Launch  one warp a row. Forward: block (32, 4), grid ceil(N / 4). Backward: block (32, 8) for kRows rows in groups
//         of eight, grid ceil(N / kRows): a warp takes one row of the group, then a thread for each eight channels adds
//         the group's rows to the block's sums, while dy and h are near: after all kRows rows they would have left the
//         second level cache, and be read twice. Second stage: block_sums.h. No shared memory, no barrier: warps share
//         nothing but dy, h and the statistics, which nobody writes.
// Order   of a sum over channels: place i of the eights by rising channel in each lane, then the eight places as a
//         tree, then the butterfly over lanes. Of a sum over n: rising within kRows rows, then over blocks of them, as
//         on the CPU, so that d_weight and d_bias have the CPU's bits. The order depends on N and C alone.
// Floor   8 bytes an element forward (x, r, h, y) and backward (dy, h, dh, dx), all BF16. Later passes over a row find
//         it in the first or second level cache: 2 more reads forward for LayerNorm, 1 for RMSNorm, 2 of dy and h
//         backward.
// Memory  workspace of backward, FP32 [blocks, 2, C]: a block's sums for d_weight, then those for d_bias, which it
//         reads back and writes again after each group.
#include <cmath>

#include "kernels/cuda/block_sums.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/vector.h"

namespace dither {
namespace {

constexpr int kForwardWarps = 4;        // rows of a block: 128 threads share an SM in small pieces
constexpr int kBackwardWarps = 8;       // four rows each: 8,192 tokens still give 15 warps to each of 132 SMs
constexpr int kForwardBlocks = 10;      // a multiprocessor holds at once: 48 registers a thread, none of them spilled
constexpr int kBackwardBlocks = 4;      // the same, of 64 registers
constexpr int kSweep = 8 * kWarpLanes;  // channels that a warp covers at once: one eight a lane

/// The sum over a row from each lane's sums of the eight places, in every lane.
__device__ __forceinline__ float row_sum(const float (&x)[8]) {
  return warp_sum(((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])));
}

/// h of row n, rounded (x itself where no branch ends), and its sum over channels: of h for LayerNorm, else of h^2.
/// Whether a branch ends is a constant, so that the loads of x and r are under way together.
template <class R, class A, bool kBranch>
__device__ __forceinline__ float add_branch(const ResidualNormForward& op, int64_t row, int first) {
  const R* x = static_cast<const R*>(op.x.data) + row;
  float sums[8] = {};
  for (int c = first; c < op.C; c += kSweep) {
    float h[8];
    load8(x + c, h);
    if constexpr (kBranch) {
      float r[8];
      load8(static_cast<const A*>(op.r.data) + row + c, r);
      for (int i = 0; i < 8; ++i) h[i] = as_stored<R>(h[i] + r[i]);
      store8(static_cast<R*>(op.h.data) + row + c, h);
    }
    for (int i = 0; i < 8; ++i) sums[i] += op.mean != nullptr ? h[i] : h[i] * h[i];
  }
  return row_sum(sums);
}

template <class R>
__device__ __forceinline__ float squares_around(const R* h, float mean, int C, int first) {
  float sums[8] = {};
  for (int c = first; c < C; c += kSweep) {
    float x[8];
    load8(h + c, x);
    for (int i = 0; i < 8; ++i) sums[i] += (x[i] - mean) * (x[i] - mean);
  }
  return row_sum(sums);
}

template <class R, class A, class W>
__global__ void __launch_bounds__(kWarpLanes* kForwardWarps, kForwardBlocks)
    norm_forward_kernel(const ResidualNormForward op) {
  const int64_t n = int64_t{blockIdx.x} * kForwardWarps + threadIdx.y;
  if (n >= op.N) return;  // a whole warp leaves, so every shuffle sees 32 lanes
  const int64_t row = n * op.C;
  const int first = static_cast<int>(threadIdx.x) * 8;
  const auto channels = static_cast<float>(op.C);
  const bool branch = op.r.data != nullptr;
  const float sum = branch ? add_branch<R, A, true>(op, row, first) : add_branch<R, A, false>(op, row, first);
  const R* h = static_cast<const R*>(branch ? op.h.data : op.x.data) + row;  // a lane reads what it wrote
  const float mean = op.mean != nullptr ? sum / channels : 0.0f;
  const float squares = op.mean != nullptr ? squares_around(h, mean, op.C, first) : sum;
  const float rstd = 1.0f / std::sqrt(squares / channels + op.epsilon);
  for (int c = first; c < op.C; c += kSweep) {
    float x[8], w[8];
    load8(h + c, x);
    load8(static_cast<const W*>(op.weight.data) + c, w);
    for (int i = 0; i < 8; ++i) x[i] = (x[i] - mean) * rstd * w[i];
    if (op.mean != nullptr) {
      float bias[8];
      load8(static_cast<const W*>(op.bias.data) + c, bias);
      for (int i = 0; i < 8; ++i) x[i] += bias[i];
    }
    store8(static_cast<A*>(op.y.data) + row + c, x);
  }
  if (threadIdx.x != 0) return;
  op.rstd[n] = rstd;
  if (op.mean != nullptr) op.mean[n] = mean;
}

/// g = dy * w and z = (h - m) * s of eight channels, in one row of the backward pass.
template <class R, class A, class W>
struct BackwardRow {
  const A* dy;
  const R* h;
  const W* weight;
  float mean, rstd;

  __device__ __forceinline__ BackwardRow(const ResidualNormBackward& op, int64_t n)
      : dy(static_cast<const A*>(op.dy.data) + n * op.C),
        h(static_cast<const R*>(op.h.data) + n * op.C),
        weight(static_cast<const W*>(op.weight.data)),
        mean(op.mean != nullptr ? op.mean[n] : 0.0f),
        rstd(op.rstd[n]) {}

  __device__ __forceinline__ void load(int c, float (&g)[8], float (&z)[8]) const {
    float w[8];
    load8(dy + c, g);
    load8(h + c, z);
    load8(weight + c, w);
    for (int i = 0; i < 8; ++i) {
      g[i] *= w[i];
      z[i] = (z[i] - mean) * rstd;
    }
  }
};

/// dx of row n, by one warp.
template <class R, class A, class W>
__device__ __forceinline__ void gradient_of_row(const ResidualNormBackward& op, int64_t n) {
  const BackwardRow<R, A, W> row(op, n);
  const int first = static_cast<int>(threadIdx.x) * 8;
  float sums_g[8] = {}, sums_gz[8] = {};
  for (int c = first; c < op.C; c += kSweep) {
    float g[8], z[8];
    row.load(c, g, z);
    for (int i = 0; i < 8; ++i) {
      sums_g[i] += g[i];
      sums_gz[i] += g[i] * z[i];
    }
  }
  const auto channels = static_cast<float>(op.C);
  const float mean_g = op.mean != nullptr ? row_sum(sums_g) / channels : 0.0f;
  const float mean_gz = row_sum(sums_gz) / channels;
  for (int c = first; c < op.C; c += kSweep) {
    float g[8], z[8];
    row.load(c, g, z);
    for (int i = 0; i < 8; ++i) g[i] = row.rstd * (g[i] - mean_g - z[i] * mean_gz);
    if (op.dh.data != nullptr) {
      float above[8];
      load8(static_cast<const R*>(op.dh.data) + n * op.C + c, above);
      for (int i = 0; i < 8; ++i) g[i] = above[i] + g[i];
    }
    store8(static_cast<R*>(op.dx.data) + n * op.C + c, g);
  }
}

/// Adds rows [begin, end), a group of a block's, to its sums over n, for the eight channels from c on. Between groups
/// they lie in the workspace, where this thread alone finds them: in registers they would cost a fourth of the warps.
template <class R, class A>
__device__ __forceinline__ void add_rows(const ResidualNormBackward& op, int64_t begin, int64_t end, int c) {
  const int64_t block = blockIdx.x;
  float* sums = static_cast<float*>(op.workspace) + block * 2 * op.C + c;
  float d_weight[8] = {}, d_bias[8] = {};
  if (begin != block * op.kRows) {
    load8(sums, d_weight);
    if (op.mean != nullptr) load8(sums + op.C, d_bias);
  }
  for (int64_t n = begin; n < end; ++n) {
    float dy[8], h[8];
    load8(static_cast<const A*>(op.dy.data) + n * op.C + c, dy);
    load8(static_cast<const R*>(op.h.data) + n * op.C + c, h);
    const float mean = op.mean != nullptr ? op.mean[n] : 0.0f, rstd = op.rstd[n];
    for (int i = 0; i < 8; ++i) {
      d_weight[i] += dy[i] * ((h[i] - mean) * rstd);
      d_bias[i] += dy[i];
    }
  }
  store8(sums, d_weight);
  if (op.mean != nullptr) store8(sums + op.C, d_bias);
}

template <class R, class A, class W>
__global__ void __launch_bounds__(kWarpLanes* kBackwardWarps, kBackwardBlocks)
    norm_backward_kernel(const ResidualNormBackward op) {
  const int64_t block = int64_t{blockIdx.x} * op.kRows;
  const int64_t block_end = block + op.kRows < op.N ? block + op.kRows : op.N;
  const int own = static_cast<int>(threadIdx.y * kWarpLanes + threadIdx.x) * 8;
  for (int64_t begin = block; begin < block_end; begin += kBackwardWarps) {
    const int64_t end = begin + kBackwardWarps < block_end ? begin + kBackwardWarps : block_end;
    if (begin + threadIdx.y < end) gradient_of_row<R, A, W>(op, begin + threadIdx.y);
    for (int c = own; c < op.C; c += kBackwardWarps * kSweep) add_rows<R, A>(op, begin, end, c);
  }
}

/// Second stage: the weight's gradient (which = 0) or the bias's (1).
void add_blocks(const ResidualNormBackward& op, View to, int which, Stream stream) {
  const float* sums = static_cast<const float*>(op.workspace) + int64_t{which} * op.C;
  cuda::add_block_sums("residual_norm_backward", to, sums, blocks_of(op.N, op.kRows), int64_t{2} * op.C, op.C, false,
                       stream);
}

/// body(R(), A(), W()) for the types of the residual stream, the activations and the gain.
template <class Body>
void with_types(DType residual, DType activation, DType weight, const Body& body) {
  with_element(residual, [&](auto r) {
    with_element(activation, [&](auto a) { with_element(weight, [&](auto w) { body(r, a, w); }); });
  });
}

}  // namespace

namespace cuda {

void residual_norm_forward(const ResidualNormForward& op, Stream stream) {
  op.check();
  with_types(op.x.type, op.y.type, op.weight.type, [&](auto r, auto a, auto w) {
    launch({"residual_norm_forward", blocks_of(op.N, kForwardWarps), dim3(kWarpLanes, kForwardWarps)}, stream,
           norm_forward_kernel<decltype(r), decltype(a), decltype(w)>, op);
  });
}

void residual_norm_backward(const ResidualNormBackward& op, Stream stream) {
  op.check();
  with_types(op.h.type, op.dy.type, op.weight.type, [&](auto r, auto a, auto w) {
    launch({"residual_norm_backward", blocks_of(op.N, op.kRows), dim3(kWarpLanes, kBackwardWarps)}, stream,
           norm_backward_kernel<decltype(r), decltype(a), decltype(w)>, op);
  });
  add_blocks(op, op.d_weight, 0, stream);
  if (op.d_bias) add_blocks(op, op.d_bias, 1, stream);
}

}  // namespace cuda
}  // namespace dither
