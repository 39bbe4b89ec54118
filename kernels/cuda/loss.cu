// Softmax cross-entropy, forward and backward in place, a block a row: three sweeps over a row that stays in the
// second-level cache. And the sum of the losses.
//
//   M = max_v z[v]     S = sum_v exp(z[v] - M)     loss = ln S + (M - z[target])     g[v] = exp(z[v] - M) * (scale / S)
//
// Shapes  logits BF16 or FP32 [N,Vp]; losses FP32 [N]; targets int32 [N], which the loader has checked. Vp % 64 == 0.
// Launch  cross_entropy: grid N, block 512; shared memory for one RowShared. sum_losses: one block, a thread for each
//         sequence.
// Order   S: a thread adds the eight exponentials of an access in FP32 from the left, its accesses (every 4,096
//         columns) in FP64 by rising v; then a butterfly over lanes and one over warps, both in FP64. The bits of a row
//         depend on its logits and on V alone, and the error of S is that of 8 additions in FP32. Losses: FP64 by
//         rising t; sequences meet in an ExactSum, so these are the CPU's bits.
// Floor   4 bytes a BF16 logit; but two exponentials of some 25 instructions each for every logit take longer on paper.
#include <limits>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/vector.h"
#include "kernels/numerics/elementary.h"

namespace dither {
namespace {

constexpr int kThreads = 512;  // a row of 50,304 logits: 12 or 13 accesses a thread
constexpr int kWarps = kThreads / kWarpLanes;
constexpr int64_t kSweep = kThreads * 8;  // columns that the block covers at once
constexpr int kSequences = 128;           // of sum_losses at once; a micro-batch has fewer
constexpr float kInfinity = std::numeric_limits<float>::infinity();
static_assert(kWarps <= kWarpLanes, "one butterfly joins the warps");

/// What the warps of a row tell each other.
struct RowShared {
  double sums[kWarps];
  float maxima[kWarps];
  float factor;           // scale / S
  float target_gradient;  // of the target's logit
};

/// Eight logits from column v on; padded columns count as -Inf.
template <class T>
__device__ __forceinline__ void load_logits(const T* z, int64_t v, int64_t V, float (&x)[8]) {
  load8(z + v, x);
  if (v + 8 <= V) return;
  for (int k = 0; k < 8; ++k) x[k] = v + k < V ? x[k] : -kInfinity;
}

/// The largest logit, in every thread; NaN counts nowhere here and makes the sum NaN.
template <class T>
__device__ float row_maximum(const T* z, int64_t V, RowShared& row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes, warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  float largest = -kInfinity;
  for (int64_t v = int64_t{threadIdx.x} * 8; v < V; v += kSweep) {
    float x[8];
    load_logits(z, v, V, x);
    for (int k = 0; k < 8; ++k) largest = x[k] > largest ? x[k] : largest;
  }
  largest = warp_max(largest);
  if (lane == 0) row.maxima[warp] = largest;
  __syncthreads();
  return warp_max(lane < kWarps ? row.maxima[lane] : -kInfinity);
}

/// The sum of exp(z - maximum), in the lanes of the first warp.
template <class T>
__device__ double row_sum(const T* z, int64_t V, float maximum, RowShared& row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes, warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  double sum = 0;
  for (int64_t v = int64_t{threadIdx.x} * 8; v < V; v += kSweep) {
    float x[8], eight = 0;
    load_logits(z, v, V, x);
    for (int k = 0; k < 8; ++k) eight += exp_fp32(x[k] - maximum);
    sum += double{eight};
  }
  sum = warp_sum(sum);
  if (lane == 0) row.sums[warp] = sum;
  __syncthreads();
  return warp == 0 ? warp_sum(lane < kWarps ? row.sums[lane] : 0.0) : 0.0;
}

/// z <- exp(z - maximum) * factor, but for the target's column; padded columns <- 0, even where the factor is NaN.
template <class T>
__device__ void write_gradient(T* z, const CrossEntropy& op, int64_t target, float maximum, const RowShared& row) {
  const float factor = row.factor;
  for (int64_t v = int64_t{threadIdx.x} * 8; v < op.Vp; v += kSweep) {
    float x[8];
    load8(z + v, x);
    for (int k = 0; k < 8; ++k) x[k] = exp_fp32(x[k] - maximum) * factor;
    if (v + 8 > op.V) {
      for (int k = 0; k < 8; ++k) x[k] = v + k < op.V ? x[k] : 0.0f;
    }
    if (v <= target && target < v + 8) {
      for (int k = 0; k < 8; ++k) x[k] = v + k == target ? row.target_gradient : x[k];
    }
    store8(z + v, x);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) cross_entropy_kernel(const CrossEntropy op) {
  RowShared& row = *shared_memory<RowShared>();
  const int64_t n = blockIdx.x;
  T* z = static_cast<T*>(op.logits.data) + n * op.Vp;
  const int32_t target = op.targets[n];
  if (target == kIgnoredTarget) {  // the whole block leaves
    const float zeros[8] = {};
    for (int64_t v = int64_t{threadIdx.x} * 8; op.gradient && v < op.Vp; v += kSweep) store8(z + v, zeros);
    if (threadIdx.x == 0) op.losses[n] = 0;
    return;
  }
  const float maximum = row_maximum(z, op.V, row);
  const double sum = row_sum(z, op.V, maximum, row);
  if (threadIdx.x == 0) {
    const float target_logit = load1(z + target);
    const bool number = sum == sum;  // log_fp64 is for numbers only
    const double loss = number ? log_fp64(sum) + (double{maximum} - double{target_logit}) : sum;
    op.losses[n] = static_cast<float>(loss);
    if (op.gradient) {
      const double scale = double{op.scalars->loss_scale};
      const double probability = double{exp_fp32(target_logit - maximum)} / sum;
      row.factor = static_cast<float>(scale / sum);
      row.target_gradient = static_cast<float>((probability - 1.0) * scale);
    }
  }
  if (!op.gradient) return;
  __syncthreads();  // the factor is there, and the target's logit has been read
  write_gradient(z, op, target, maximum, row);
}

/// A thread a sequence: serial additions by the contract, of some thousand losses, once a micro-batch.
__global__ void __launch_bounds__(kSequences) sum_losses_kernel(const SumLosses op) {
  double* leaves = shared_memory<double>();                              // [kSequences]
  ExactSum* sum = shared_memory<ExactSum>(kSequences * sizeof(double));  // indexed by value: not for registers
  if (threadIdx.x == 0) *sum = *op.sum;
  for (int64_t first = 0; first < op.B; first += kSequences) {
    const int64_t b = first + threadIdx.x;
    double leaf = 0;
    for (int64_t t = 0; b < op.B && t < op.T; ++t) leaf += double{op.losses[b * op.T + t]};
    leaves[threadIdx.x] = leaf;
    __syncthreads();
    for (int i = 0; threadIdx.x == 0 && i < kSequences && first + i < op.B; ++i) sum->add(leaves[i]);
    __syncthreads();
  }
  if (threadIdx.x == 0) *op.sum = *sum;
}

}  // namespace

namespace cuda {

void cross_entropy(const CrossEntropy& op, Stream stream) {
  op.check();
  with_element(op.logits.type, [&]<class T>(T) {
    launch({"cross_entropy", dim3(static_cast<unsigned>(op.N)), dim3(kThreads), sizeof(RowShared)}, stream,
           cross_entropy_kernel<T>, op);
  });
}

void sum_losses(const SumLosses& op, Stream stream) {
  op.check();
  constexpr int64_t kShared = kSequences * sizeof(double) + sizeof(ExactSum);
  launch({"sum_losses", dim3(1), dim3(kSequences), kShared}, stream, sum_losses_kernel, op);
}

}  // namespace cuda
}  // namespace dither
