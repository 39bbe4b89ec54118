// Initial values, accumulation over micro-batches, the squared norm and the step's decision, on the CPU.
//
// The first three run over leaves (leaves.h) whose elements are independent; random bits are drawn a leaf at once
// (random_leaf.h) and are a function of (seed, tensor, element, step, draw) alone.
// Floor   bytes moved, an element: accumulate reads every contribution once, reads the sum (not at first) and writes it
// once: 8 for one FP32 contribution to a BF16 sum; squared_norm 2 or 4.
#include <algorithm>  // min
#include <cmath>
#include <mutex>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/leaves.h"
#include "kernels/cpu/random_leaf.h"
#include "kernels/numerics/normal.h"

namespace dither {
namespace {

/// sum[i] = RN or SR of (sum[i] + addend[i]), or of addend[i] alone. An FP32 sum is what its addition gives.
template <bool kFirst, bool kStochastic, class Sum, class Addend>
void add_leaf(Sum* sum, const Addend* addend, const uint16_t* dithers, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float x = widened(addend[i]);
    const float total = kFirst ? x : widened(sum[i]) + x;
    if constexpr (kStochastic) {
      sum[i] = round_stochastic(total, dithers[i]);
    } else {
      sum[i] = rounded<Sum>(total);
    }
  }
}

/// All contributions to one leaf, which stays in the fastest cache meanwhile: memory sees one read and one write of it.
template <bool kStochastic, class Sum, class Addend>
void fold_leaf(const Accumulate& op, const Segment& s, int64_t first, int64_t count) {
  NoiseId id = {op.seed, s.tensor, op.scalars->step, op.purpose, *op.draw};
  alignas(64) uint16_t dithers[kLeafElements];
  Sum* sum = data_of<Sum>(op.sum) + s.offset + first;
  const Addend* addend = data_of<Addend>(op.addend) + s.offset + first;
  for (int64_t c = 0; c < op.contributions; ++c, ++id.draw, addend += op.stride) {
    if constexpr (kStochastic) draw_dithers(id, s.first + first, dithers);
    if (c == 0 && op.first) {
      add_leaf<true, kStochastic>(sum, addend, dithers, count);
    } else {
      add_leaf<false, kStochastic>(sum, addend, dithers, count);
    }
  }
}

}  // namespace

void CpuBackend::initialise(const Initialise& op, Stream) {
  op.check();
  const WeightWrite write = strategy_info(op.strategy).write;
  const NoiseId id = {op.seed, op.tensor, 0, RandomStream::initialisation, 0};
  parallel_ranges(threads_, op.count, kPartElements, [&](int64_t part_begin, int64_t part_end) {
    uint32_t words[4 * kLeafBlocks];
    constexpr int64_t kDrawn = 4 * kLeafBlocks;  // one word an element
    for (int64_t begin = part_begin; begin < part_end; begin += kDrawn) {
      if (op.std != 0) draw_words(id, (op.first + begin) / 4, words);
      const int64_t count = std::min(kDrawn, part_end - begin);
      for (int64_t i = 0; i < count; ++i) {
        const double z = op.std != 0 ? normal_deviate(words[i]) : 0.0;
        const float draw = static_cast<float>(op.mean + op.std * z);
        const StoredWeight stored = with_weight_rule(write, [draw](auto rule) { return rule.initial(draw); });
        put(op.weight, begin + i, stored.w);
        if (op.extra) put(op.extra, begin + i, stored.extra);
      }
    }
  });
}

void CpuBackend::accumulate(const Accumulate& op, Stream) {
  op.check();
  check_segments("accumulate", op.segments, op.segment_count);
  with_type(op.addend.type, [&]<class Addend>(Addend) {
    const auto fold = op.sum.type == DType::fp32            ? fold_leaf<false, float, Addend>
                      : op.rounding == Rounding::stochastic ? fold_leaf<true, Bf16, Addend>
                                                            : fold_leaf<false, Bf16, Addend>;
    parallel_parts(threads_, op.segments, op.segment_count, [&](const Segment& s, int64_t begin, int64_t end) {
      for_each_leaf(begin, end, [&](int64_t first, int64_t count) { fold(op, s, first, count); });
    });
  });
}

void CpuBackend::squared_norm(const SquaredNorm& op, Stream) {
  op.check();
  check_segments("squared_norm", op.segments, op.segment_count);
  std::mutex merge;
  parallel_parts(threads_, op.segments, op.segment_count, [&](const Segment& s, int64_t begin, int64_t end) {
    alignas(64) float widened[kLeafElements];
    ExactSum sum;
    for_each_leaf(begin, end, [&](int64_t first, int64_t count) {
      const float* g = leaf_as_fp32(op.gradient, s.offset + first, count, widened);
      sum.add(leaf_sum(count, [&](int64_t i) { return double{g[i]} * double{g[i]}; }));
    });
    const std::lock_guard lock(merge);  // once a part; the additions are free of order
    op.scalars->squared_norm.add(sum);
    if (op.group_sums != nullptr) op.group_sums[s.group].add(sum);
  });
}

void CpuBackend::decide_step(const DecideStep& op, Stream) {
  op.check();
  StepScalars& s = *op.scalars;
  s.loss = s.loss_sum.value() / static_cast<double>(s.targets);
  s.gradient_norm = std::sqrt(s.squared_norm.value());
  const bool finite = std::isfinite(s.loss) && std::isfinite(s.gradient_norm);
  const bool clips = s.largest_norm > 0 && s.gradient_norm > s.largest_norm;  // false for NaN
  s.clip_factor = clips ? static_cast<float>(s.largest_norm / s.gradient_norm) : 1.0f;
  s.apply = finite && s.loss <= s.loss_limit && s.gradient_norm <= s.norm_limit ? 1 : 0;
}

}  // namespace dither
