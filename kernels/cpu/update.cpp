// Initial values, accumulation over micro-batches, the squared norm and the step's decision, on the CPU.
//
// The first three run over leaves (leaves.h) whose elements are independent; random bits are drawn a leaf at once
// (random_leaf.h) and are a function of (seed, tensor, element, step, draw) alone.
// Floor   bytes moved: accumulate 8 (BF16 sum) or 12 (FP32) an element, squared_norm 2 or 4.
#include <algorithm>  // min
#include <cmath>
#include <mutex>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/leaves.h"
#include "kernels/cpu/random_leaf.h"
#include "kernels/numerics/normal.h"

namespace dither {
namespace {

/// sum[i] = RN or SR of (sum[i] + addend[i]), or of addend[i] alone.
template <bool kFirst, bool kStochastic>
void accumulate_bf16(Bf16* sum, const float* addend, const uint16_t* dithers, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float total = kFirst ? addend[i] : to_float(sum[i]) + addend[i];
    sum[i] = kStochastic ? round_stochastic(total, dithers[i]) : round_nearest(total);
  }
}

void accumulate_fp32(float* sum, const float* addend, bool first, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) sum[i] = first ? addend[i] : sum[i] + addend[i];
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
      if (op.std != 0) draw_words(id, begin / 4, words);
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
  const bool narrow = op.sum.type == DType::bf16;
  const bool stochastic = narrow && op.rounding == Rounding::stochastic;
  const auto add = op.first ? (stochastic ? accumulate_bf16<true, true> : accumulate_bf16<true, false>)
                            : (stochastic ? accumulate_bf16<false, true> : accumulate_bf16<false, false>);
  parallel_parts(threads_, op.segments, op.segment_count, [&](const Segment& s, int64_t begin, int64_t end) {
    const NoiseId id = {op.seed, s.tensor, op.scalars->step, RandomStream::gradient_accumulation,
                        op.scalars->micro_batch};
    alignas(64) uint16_t dithers[kLeafElements];
    for_each_leaf(begin, end, [&](int64_t first, int64_t count) {
      const int64_t at = s.offset + first;
      if (stochastic) draw_dithers(id, s.first + first, dithers);
      if (narrow) {
        add(op.sum.bf16() + at, op.addend.fp32() + at, dithers, count);
      } else {
        accumulate_fp32(op.sum.fp32() + at, op.addend.fp32() + at, op.first, count);
      }
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
  s.loss = s.loss_sum.value() * double{s.loss_scale};
  s.gradient_norm = std::sqrt(s.squared_norm.value());
  const bool finite = std::isfinite(s.loss) && std::isfinite(s.gradient_norm);
  const bool clips = s.largest_norm > 0 && s.gradient_norm > s.largest_norm;  // false for NaN
  s.clip_factor = clips ? static_cast<float>(s.largest_norm / s.gradient_norm) : 1.0f;
  s.apply = finite && s.loss <= s.loss_limit && s.gradient_norm <= s.norm_limit ? 1 : 0;
}

}  // namespace dither
