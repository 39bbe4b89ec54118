// AdamW on the CPU: fetches a leaf's state, calls adamw_update() (numerics/adamw.h) for each element, stores it back.
//
// One instance of the leaf's loop for each strategy, types of its moments, math, with or without stochastic moments and
// with or without sums, chosen once a step. Dithers are drawn for a whole leaf before its loop and only for what is
// rounded stochastically. With sums, the loop also
// leaves D and the weights before and after in small arrays, over which the sums of a leaf run in their fixed order.
//
// Floor   bytes of state read and written and of gradient read: 14 a parameter for bf16_sr, 32 for mixed.
//         Reached by fp32 and mixed; the BF16 strategies compute: roundings, dithers, three divisions and a root.
// Order   elements are independent; sums by leaf, then ExactSum: the bits depend on no thread and no cut.
#include <bit>
#include <mutex>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/leaves.h"
#include "kernels/cpu/random_leaf.h"
#include "kernels/operations/adamw_rule.h"

namespace dither {
namespace {

/// One leaf's state and gradient. Absent parts are null.
struct Leaf {
  void *w, *extra, *m, *v, *v_extra;
  const float* gradient;
  const uint16_t *weight_dithers, *m_dithers, *v_dithers;
  int64_t count;
};

/// What the sums need of a leaf.
struct Trace {
  float intended[kLeafElements];
  float before[kLeafElements], after[kLeafElements];  // the stored weight
  double full_change[kLeafElements];                  // of full_weight()
};

template <DType kType>
float fetch(const void* data, int64_t i) {
  if constexpr (kType == DType::bf16) return to_float(static_cast<const Bf16*>(data)[i]);
  if constexpr (kType == DType::fp32) return static_cast<const float*>(data)[i];
  if constexpr (kType == DType::int16) return static_cast<const int16_t*>(data)[i];
  return 0;
}

/// A value that travels as float already holds the stored type: its upper half is all there is.
template <DType kType>
void put(void* data, int64_t i, float value) {
  if constexpr (kType == DType::bf16) {
    static_cast<Bf16*>(data)[i] = {static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16)};
  }
  if constexpr (kType == DType::fp32) static_cast<float*>(data)[i] = value;
  if constexpr (kType == DType::int16) static_cast<int16_t*>(data)[i] = static_cast<int16_t>(value);
}

/// What an instance of the loop is made for.
struct Variant {
  AdamWRule rule;
  bool stochastic_moments;  // false: both moments are rounded to nearest, whatever AdamWStep says
  bool sums;
};

/// Element i of a leaf. Apart from the loop, because GCC does not vectorise one that declares structures itself;
/// inlined with all it calls, because a single call left in the loop makes it thirty times slower.
template <Variant kVariant>
[[gnu::flatten, gnu::always_inline]] inline void update_element(const Leaf& a, const AdamWStep& step, Trace& trace,
                                                                int64_t i) {
  constexpr Strategy kStrategy = kVariant.rule.strategy;
  constexpr DType kFirst = kVariant.rule.first_moment, kSecond = kVariant.rule.second_moment;
  constexpr StrategyInfo info = strategy_info(kStrategy);
  const AdamWState state = {fetch<info.weight>(a.w, i), fetch<info.weight_extra>(a.extra, i), fetch<kFirst>(a.m, i),
                            fetch<kSecond>(a.v, i), fetch<info.second_moment_extra>(a.v_extra, i)};
  const AdamWDithers dithers = {a.weight_dithers[i], a.m_dithers[i], a.v_dithers[i]};
  const AdamWUpdate next = adamw_update<kVariant.rule>(state, a.gradient[i], dithers, step);
  put<info.weight>(a.w, i, next.state.w);
  put<info.weight_extra>(a.extra, i, next.state.extra);
  put<kFirst>(a.m, i, next.state.m);
  put<kSecond>(a.v, i, next.state.v);
  put<info.second_moment_extra>(a.v_extra, i, next.state.v_extra);
  if constexpr (kVariant.sums) {
    trace.intended[i] = next.intended;
    trace.before[i] = state.w;
    trace.after[i] = next.state.w;
    trace.full_change[i] = full_weight<kStrategy>(next.state) - full_weight<kStrategy>(state);
  }
}

template <Variant kVariant>
void update_leaf(const Leaf& leaf, const AdamWStep& scalars, Trace& trace) {
  const Leaf a = leaf;  // copies, which no store of the loop can change
  AdamWStep step = scalars;
  if (!kVariant.stochastic_moments) {  // as constants: otherwise the loop computes both roundings and selects
    step.first_moment_rounding = step.second_moment_rounding = Rounding::nearest;
  }
#pragma omp simd
  for (int64_t i = 0; i < a.count; ++i) update_element<kVariant>(a, step, trace, i);
}

using LeafUpdate = void (*)(const Leaf&, const AdamWStep&, Trace&);

/// The loop for what `op` asks for; only what can occur is compiled.
LeafUpdate find_loop(const AdamW& op) {
  return with_adamw_rule(op, [&op]<AdamWRule kRule>() -> LeafUpdate {
    const bool sums = op.sums != nullptr;
    if constexpr (kRule.first_moment == DType::bf16 || kRule.second_moment == DType::bf16) {
      if (draws_first(op) || draws_second(op)) {
        return sums ? update_leaf<Variant{kRule, true, true}> : update_leaf<Variant{kRule, true, false}>;
      }
    }
    return sums ? update_leaf<Variant{kRule, false, true}> : update_leaf<Variant{kRule, false, false}>;
  });
}

void add_leaf(UpdateSums& sums, const Trace& t, int64_t count) {
  sums.intended_squared.add(leaf_sum(count, [&](int64_t i) { return double{t.intended[i]} * double{t.intended[i]}; }));
  sums.effective_dot.add(
      leaf_sum(count, [&](int64_t i) { return (double{t.after[i]} - double{t.before[i]}) * -double{t.intended[i]}; }));
  sums.full_dot.add(leaf_sum(count, [&](int64_t i) { return t.full_change[i] * -double{t.intended[i]}; }));
  sums.weight_squared.add(leaf_sum(count, [&](int64_t i) { return double{t.before[i]} * double{t.before[i]}; }));
  int32_t unchanged = 0, octaves = 0, sized = 0;  // 1,024 sizes of at most 2^16
  for (int64_t i = 0; i < count; ++i) {
    unchanged += t.after[i] == t.before[i] && t.intended[i] != 0;
    const bool counts = has_size(t.intended[i], t.before[i]);
    sized += counts;
    octaves += counts ? log2_ulps(t.intended[i], t.before[i]) : 0;
  }
  sums.unchanged += unchanged;
  sums.octaves += octaves;
  sums.sized += sized;
}

}  // namespace

void CpuBackend::adamw(const AdamW& op, Stream) {
  op.check();
  check_segments("adamw", op.segments, op.segment_count);
  if (op.scalars->apply == 0) return;
  const bool weight_draws = draws_weight(op), m_draws = draws_first(op), v_draws = draws_second(op);
  const LeafUpdate update = find_loop(op);
  const AdamWStep with_decay = op.step_of(*op.scalars, true), without_decay = op.step_of(*op.scalars, false);
  std::mutex merge;

  parallel_parts(threads_, op.segments, op.segment_count, [&](const Segment& s, int64_t begin, int64_t end) {
    alignas(64) uint16_t weight_dithers[kLeafElements] = {}, m_dithers[kLeafElements] = {};
    alignas(64) uint16_t v_dithers[kLeafElements] = {};
    alignas(64) float widened[kLeafElements];
    Trace trace;
    UpdateSums sums;
    for_each_leaf(begin, end, [&](int64_t first, int64_t count) {
      const auto noise = [&](RandomStream stream) { return NoiseId{op.seed, s.tensor, op.scalars->step, stream, 0}; };
      if (weight_draws) draw_dithers(noise(RandomStream::weight), s.first + first, weight_dithers);
      if (m_draws) draw_dithers(noise(RandomStream::first_moment), s.first + first, m_dithers);
      if (v_draws) draw_dithers(noise(RandomStream::second_moment), s.first + first, v_dithers);
      const int64_t at = s.offset + first;
      const Leaf leaf = {.w = op.weight.at(at).data,
                         .extra = op.weight_extra.at(at).data,
                         .m = op.first_moment.at(at).data,
                         .v = op.second_moment.at(at).data,
                         .v_extra = op.second_moment_extra.at(at).data,
                         .gradient = leaf_as_fp32(op.gradient, at, count, widened),
                         .weight_dithers = weight_dithers,
                         .m_dithers = m_dithers,
                         .v_dithers = v_dithers,
                         .count = count};
      update(leaf, s.decay ? with_decay : without_decay, trace);
      if (op.sums != nullptr) add_leaf(sums, trace, count);
    });
    if (op.sums != nullptr) {
      const std::lock_guard lock(merge);  // once a part; the additions are free of order
      op.sums[s.group].add(sums);
    }
  });
}

}  // namespace dither
