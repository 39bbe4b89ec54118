// Which instance of adamw_update() an operation asks for: what the loops and kernels of AdamW are made for, once a line
// of the table of strategies, its free moments, and math where it is a choice.
#pragma once

#include "kernels/operations/update.h"

namespace dither {

struct AdamWRule {
  Strategy strategy;
  DType first_moment, second_moment;
  Math math;
};

template <AdamWRule kRule>
DITHER_INLINE AdamWUpdate adamw_update(const AdamWState& s, float gradient, AdamWDithers dithers,
                                       const AdamWStep& step) {
  return adamw_update<kRule.strategy, kRule.math, kRule.first_moment, kRule.second_moment>(s, gradient, dithers, step);
}

namespace adamw_rule {

template <Strategy kStrategy, DType kFirst, DType kSecond, class Body>
auto with_math(const AdamW& op, const Body& body) {
  if constexpr (all_bf16(strategy_info(kStrategy))) {  // check() sees to it
    if (op.math == Math::bf16) return body.template operator()<AdamWRule{kStrategy, kFirst, kSecond, Math::bf16}>();
  }
  return body.template operator()<AdamWRule{kStrategy, kFirst, kSecond, Math::fp32}>();
}

template <Strategy kStrategy, class Body>
auto with_moments(const AdamW& op, const Body& body) {
  constexpr StrategyInfo info = strategy_info(kStrategy);
  if constexpr (info.free_moments) {
    constexpr DType kBf16 = DType::bf16, kFp32 = DType::fp32;
    const bool first = op.first_moment.type == kBf16, second = op.second_moment.type == kBf16;
    if (first && second) return with_math<kStrategy, kBf16, kBf16>(op, body);
    if (first) return with_math<kStrategy, kBf16, kFp32>(op, body);
    if (second) return with_math<kStrategy, kFp32, kBf16>(op, body);
    return with_math<kStrategy, kFp32, kFp32>(op, body);
  } else {
    return with_math<kStrategy, info.first_moment, info.second_moment>(op, body);
  }
}

template <size_t kIndex, class Body>
auto with_strategy(const AdamW& op, const Body& body) {
  if constexpr (kIndex + 1 < kStrategies.size()) {
    if (op.strategy != kStrategies[kIndex].id) return with_strategy<kIndex + 1>(op, body);
  }
  return with_moments<kStrategies[kIndex].id>(op, body);
}

}  // namespace adamw_rule

/// body.operator()<AdamWRule>() with the rule that the operation asks for; check() has passed.
template <class Body>
auto with_adamw_rule(const AdamW& op, const Body& body) {
  return adamw_rule::with_strategy<0>(op, body);
}

/// Whether the first or second moment is rounded stochastically; a second moment of two components has no choice.
inline bool draws_first(const AdamW& op) {
  return op.first_moment.type == DType::bf16 && op.first_moment_rounding == Rounding::stochastic;
}
inline bool draws_second(const AdamW& op) {
  return op.second_moment.type == DType::bf16 && !op.second_moment_extra &&
         op.second_moment_rounding == Rounding::stochastic;
}
inline bool draws_weight(const AdamW& op) { return strategy_info(op.strategy).write == WeightWrite::stochastic; }

}  // namespace dither
