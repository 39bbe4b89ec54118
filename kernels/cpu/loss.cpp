// Softmax cross-entropy on the CPU, row by row: three sweeps over a row that stays in the core's cache.
//
//   M = max_v z[v]     S = sum_v exp(z[v] - M)     loss = ln S + (M - z[target])     g[v] = exp(z[v] - M) * (scale / S)
//
// The gradient computes exp a second time: keeping it would need 4 V bytes of scratch for each thread.
// Order   lane l adds the elements l, l + 16, l + 32 ... of a leaf of 1,024 in FP32; lanes meet in vector.h's tree,
// leaves
//         in FP64 by rising v: the bits depend on V alone, and the error of S is that of 64 additions, not of V.
// Floor   4 bytes a BF16 logit (read and written once), as long as a row fits in the cache.
#include <algorithm>  // max, min, fill
#include <limits>

#include "base/error.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector.h"
#include "kernels/numerics/elementary.h"

namespace dither {
namespace {

constexpr int64_t kTaskElements = 32768;  // rows of small vocabularies are handed to a thread in groups of this size

template <class Stored>
float largest(const Stored* z, int64_t V) {
  Lanes most = lanes_of(-std::numeric_limits<float>::infinity());
  int64_t v = 0;
  for (; v + kLanes <= V; v += kLanes) {
    const Lanes x = load(z + v);
    most = x > most ? x : most;
  }
  float result = most[0];
  for (int lane = 1; lane < kLanes; ++lane) result = std::max(result, most[lane]);
  for (; v < V; ++v) result = std::max(result, widened(z[v]));
  return result;
}

template <class Stored>
double sum_of_exponentials(const Stored* z, int64_t V, float maximum) {
  double total = 0;
  for (int64_t begin = 0; begin < V; begin += kLeafElements) {
    const int64_t end = std::min(begin + kLeafElements, V);
    Lanes lanes{};
    int64_t v = begin;
    for (; v + kLanes <= end; v += kLanes) lanes += map(load(z + v) - maximum, exp_fp32);
    for (int lane = 0; v + lane < end; ++lane) lanes[lane] += exp_fp32(widened(z[v + lane]) - maximum);
    total += double{sum(lanes)};
  }
  return total;
}

/// z[v] <- exp(z[v] - maximum) * factor
template <class Stored>
void scale_exponentials(Stored* z, int64_t V, float maximum, float factor) {
  int64_t v = 0;
  for (; v + kLanes <= V; v += kLanes) store(z + v, map(load(z + v) - maximum, exp_fp32) * factor);
  for (; v < V; ++v) z[v] = rounded<Stored>(exp_fp32(widened(z[v]) - maximum) * factor);
}

/// One row: its loss, and its gradient in place. A NaN or Inf among the logits makes the loss NaN or Inf.
template <class Stored>
float cross_entropy_row(const CrossEntropy& op, Stored* z, int32_t target) {
  if (target == kIgnoredTarget) {
    if (op.gradient) std::fill(z, z + op.Vp, Stored{});
    return 0;
  }
  DITHER_ASSERT(target >= 0 && target < op.V);  // the loader has checked every token
  const float maximum = largest(z, op.V);
  const double sum = sum_of_exponentials(z, op.V, maximum);
  const float target_logit = widened(z[target]);
  const bool number = sum == sum;  // log_fp64 is for numbers only
  const double loss = number ? log_fp64(sum) + (double{maximum} - double{target_logit}) : sum;
  if (!op.gradient) return static_cast<float>(loss);

  const double scale = double{op.scalars->loss_scale};
  scale_exponentials(z, op.V, maximum, static_cast<float>(scale / sum));
  const double probability = double{exp_fp32(target_logit - maximum)} / sum;
  z[target] = rounded<Stored>(static_cast<float>((probability - 1.0) * scale));
  std::fill(z + op.V, z + op.Vp, Stored{});
  return static_cast<float>(loss);
}

}  // namespace

void CpuBackend::cross_entropy(const CrossEntropy& op, Stream) {
  op.check();
  const int64_t rows = std::max<int64_t>(1, kTaskElements / op.Vp);
  with_type(op.logits.type, [&](auto type) {
    auto* logits = data_of<decltype(type)>(op.logits);
    parallel_ranges(threads_, op.N, rows, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) op.losses[n] = cross_entropy_row(op, logits + n * op.Vp, op.targets[n]);
    });
  });
}

void CpuBackend::sum_losses(const SumLosses& op, Stream) {
  op.check();
  for (int64_t b = 0; b < op.B; ++b) {
    double sequence = 0;
    for (int64_t t = 0; t < op.T; ++t) sequence += double{op.losses[b * op.T + t]};
    op.sum->add(sequence);
  }
}

}  // namespace dither
