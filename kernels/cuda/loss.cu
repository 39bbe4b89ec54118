// Softmax cross-entropy, forward and backward in place, a block a row: one sweep for the maximum and the sum of the
// exponentials, one for the gradient. And the sum of the losses.
//
//   M = max_v z[v]     S = sum_v exp(z[v] - M)     loss = ln S + (M - z[target])     g[v] = exp(z[v] - M) * (scale / S)
//
// A thread knows a maximum m of what it has seen and s = sum exp(z - m); where m rises to m', s becomes s exp(m - m').
//
// Shapes  logits BF16 or FP32 [N,Vp]; losses FP32 [N]; targets int32 [N], which the loader has checked. Vp % 64 == 0.
// Launch  cross_entropy: grid N, block 512, two of them an SM; shared memory for one RowShared and, before a gradient,
//         for the first 80 KB of the row. sum_losses: one block, a thread for each sequence.
// Order   S: a thread adds the eight exponentials of an access in FP32 from the left, its accesses (every 4,096
//         columns) in FP64 by rising v; m rises at most once in four accesses. Then a butterfly over lanes and one over
//         warps, both in FP64, every sum brought to the greatest maximum first. The bits of a row depend on its logits
//         and on V alone. Losses: FP64 by rising t; sequences meet in an ExactSum, so these are the CPU's bits.
// Error   exp(d) is 2^RN(RN(d) log2 e): with u = 2^-24, 2.3 u |d| from the argument (two roundings, and 0.3 for the
//         constant's) and 4 u from ex2. The distances of m's steps add up to M's, so S is off by at most
//         (2.3 max|d| + 4 (3 + rises of m) + 8) u, relative. Not fma(z, log2 e, -M log2 e): rounding M log2 e alone is
//         worth |M| u, however near z is to M, and more than all of z from |M| = 2^24 on.
// Floor   4 bytes a BF16 logit, read and written once. What shared memory does not hold is read again, latest first,
//         while the second-level cache has it: on paper all of a row of 50,304, the greater part of one of 151,936.
#include <limits>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.h"
#include "kernels/cuda/vector.h"
#include "kernels/numerics/elementary.h"

namespace dither {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarpLanes;
constexpr int64_t kSweep = kThreads * 8;  // columns that the block covers at once
constexpr int kAhead = 4;  // accesses of a thread under way: 64 KB an SM, where DRAM's delay asks for some 18
constexpr int64_t kGroup = kAhead * kSweep;  // columns of these
constexpr int64_t kHeldBytes = 80 * 1024;    // of a row: two blocks an SM on Hopper and on A100, and every GPU has room
constexpr int kSequences = 128;              // of sum_losses at once; a micro-batch has fewer
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
static_assert(kWarps <= kWarpLanes, "one butterfly joins the warps");

/// A sum of exponentials: sum = sum exp(z - maximum). Of none at first; the maximum is never -Inf, for -Inf - -Inf is
/// NaN and a thread may have seen masked logits alone.
struct Exponentials {
  float maximum = kLowest;
  double sum = 0;
};

/// What the warps of a row tell each other.
struct alignas(16) RowShared {
  double sums[kWarps];
  float maxima[kWarps];
};

/// Eight logits as they lie in memory.
template <class T>
struct Access {
  FourWords part[sizeof(T) / 2];
};

template <class T>
__device__ __forceinline__ Access<T> fetch(const T* from) {
  return *reinterpret_cast<const Access<T>*>(from);
}

/// How many columns of a row the block keeps from the first sweep to the second.
template <class T>
__host__ __device__ __forceinline__ int64_t held_columns(const CrossEntropy& op) {
  constexpr int64_t kMost = kHeldBytes / sizeof(T);
  if (!op.gradient) return 0;
  return op.Vp < kMost ? op.Vp : kMost;
}

__device__ __forceinline__ float exponential(float difference) { return exp2_approx(difference * kLog2E); }

/// The exponentials of the columns of one thread, which are kept on the way.
template <class T>
__device__ __forceinline__ Exponentials sum_columns(const T* z, int64_t V, T* held, int64_t kept) {
  Exponentials own;
  for (int64_t first = int64_t{threadIdx.x} * 8; first < V; first += kGroup) {
    Access<T> access[kAhead];
    DITHER_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      const int64_t v = first + i * kSweep;
      access[i] = v < V ? fetch(z + v) : Access<T>{};
    }
    float x[kAhead][8], most = own.maximum;
    DITHER_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      const int64_t v = first + i * kSweep;
      if (v < kept) *reinterpret_cast<Access<T>*>(held + v) = access[i];
      load8(reinterpret_cast<const T*>(&access[i]), x[i]);
      if (v + 8 > V) {  // padded columns count as -Inf
        DITHER_UNROLL
        for (int k = 0; k < 8; ++k) x[i][k] = v + k < V ? x[i][k] : -kInfinity;
      }
      DITHER_UNROLL
      for (int k = 0; k < 8; ++k) most = x[i][k] > most ? x[i][k] : most;  // not NaN, which the sum shows
    }
    if (most > own.maximum) own = {most, own.sum * double{exponential(own.maximum - most)}};
    DITHER_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      float eight = 0;
      DITHER_UNROLL
      for (int k = 0; k < 8; ++k) eight += exponential(x[i][k] - own.maximum);
      own.sum += double{eight};
    }
  }
  return own;
}

/// The exponentials of all lanes, in every lane.
__device__ __forceinline__ Exponentials warp_join(const Exponentials& own) {
  const float maximum = warp_max(own.maximum);
  return {maximum, warp_sum(own.sum * double{exponential(own.maximum - maximum)})};
}

/// The exponentials of all threads, in every thread, and a barrier.
__device__ __forceinline__ Exponentials block_join(const Exponentials& own, RowShared& row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes, warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const Exponentials joined = warp_join(own);
  if (lane == 0) {
    row.maxima[warp] = joined.maximum;
    row.sums[warp] = joined.sum;
  }
  __syncthreads();
  return warp_join(lane < kWarps ? Exponentials{row.maxima[lane], row.sums[lane]} : Exponentials{});
}

/// z <- exp(z - maximum) * factor, but for the target's column; padded columns <- 0, even where the factor is NaN. The
/// latest columns first: they are the likeliest to be in the second-level cache still.
template <class T>
__device__ __forceinline__ void write_gradient(T* z, const CrossEntropy& op, const T* held, const Exponentials& all,
                                               int64_t target, float target_gradient) {
  const float factor = static_cast<float>(double{op.scalars->loss_scale} / all.sum);
  const int64_t kept = held_columns<T>(op);
  for (int64_t group = (op.Vp - 1) / kGroup; group >= 0; --group) {
    const int64_t first = group * kGroup + int64_t{threadIdx.x} * 8;
    Access<T> access[kAhead];
    DITHER_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      const int64_t v = first + i * kSweep;
      access[i] = Access<T>{};
      if (v < op.V) access[i] = v < kept ? fetch(held + v) : fetch(z + v);
    }
    DITHER_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      const int64_t v = first + i * kSweep;
      if (v >= op.Vp) continue;
      float x[8];
      load8(reinterpret_cast<const T*>(&access[i]), x);
      DITHER_UNROLL
      for (int k = 0; k < 8; ++k) x[k] = exponential(x[k] - all.maximum) * factor;
      if (v + 8 > op.V) {
        DITHER_UNROLL
        for (int k = 0; k < 8; ++k) x[k] = v + k < op.V ? x[k] : 0.0f;
      }
      if (v <= target && target < v + 8) {
        DITHER_UNROLL
        for (int k = 0; k < 8; ++k) x[k] = v + k == target ? target_gradient : x[k];
      }
      store8(z + v, x);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) cross_entropy_kernel(const CrossEntropy op) {
  RowShared& row = *shared_memory<RowShared>();
  T* held = shared_memory<T>(sizeof(RowShared));  // [held_columns]: every thread reads what it has written itself
  const int64_t n = blockIdx.x;
  T* z = static_cast<T*>(op.logits.data) + n * op.Vp;
  const int32_t target = op.targets[n];
  if (target == kIgnoredTarget) {  // the whole block leaves
    const float zeros[8] = {};
    for (int64_t v = int64_t{threadIdx.x} * 8; op.gradient && v < op.Vp; v += kSweep) store8(z + v, zeros);
    if (threadIdx.x == 0) op.losses[n] = 0;
    return;
  }
  const float target_logit = load1(z + target);  // before the barrier in block_join, behind which it is overwritten
  Exponentials all = block_join(sum_columns(z, op.V, held, held_columns<T>(op)), row);
  if (!(all.sum > 0)) all.sum = kNaN;  // nothing but -Inf
  if (threadIdx.x == 0) {
    const bool number = all.sum == all.sum;  // log_fp64 is for numbers only
    const double loss = number ? log_fp64(all.sum) + (double{all.maximum} - double{target_logit}) : all.sum;
    op.losses[n] = static_cast<float>(loss);
  }
  if (!op.gradient) return;
  const double probability = double{exponential(target_logit - all.maximum)} / all.sum;
  const double target_gradient = (probability - 1.0) * double{op.scalars->loss_scale};
  write_gradient(z, op, held, all, target, static_cast<float>(target_gradient));
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
    const int64_t shared_bytes =
        static_cast<int64_t>(sizeof(RowShared)) + held_columns<T>(op) * size_of(op.logits.type);
    launch({"cross_entropy", dim3(static_cast<unsigned>(op.N)), dim3(kThreads), shared_bytes}, stream,
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
