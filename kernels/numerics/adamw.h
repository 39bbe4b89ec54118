// The AdamW rule of every precision strategy, for one element: the only place where an update is computed.
//
//   G = gradient * scale          M = b1*m + (1-b1)*G          V = b2*v + (1-b2)*G*G
//   D = lr * ( (M/bias1) / (sqrt(V/bias2) + eps) + wd*w )      w <- store(w - D)
//
// D comes from the unrounded M and V (collage_plus: from the leading v after its update). Weight decay is inside D:
// applied apart, BF16 would round it away. Sources: Loshchilov, Hutter, arXiv 1711.05101 (AdamW); Ozkara, Yu, Park,
// arXiv 2502.20566 (bf16_sr); Yu et al., arXiv 2405.03637 (Collage). NUMERICS 5.
// CPU loop and CUDA kernel fetch, call adamw_update() and store; values travel as floats that hold the stored type.
#pragma once

#include <cmath>

#include "kernels/numerics/expansion.h"
#include "kernels/numerics/strategy.h"
#include "kernels/numerics/weight_write.h"

namespace dither {

/// What is the same for all elements of a step. rest = 1 - beta and the biases 1 - beta^t are formed in FP64 by the
/// host.
struct AdamWStep {
  float learning_rate;
  float beta1, rest1;
  float beta2, rest2;
  float bias1, bias2;
  float epsilon;
  float weight_decay;               // 0 for tensors that do not decay
  float gradient_scale;             // clip factor
  Expansion beta2_parts;            // RN(b2), RN(b2 - RN(b2)): collage_plus
  Rounding first_moment_rounding;   // of a BF16 m
  Rounding second_moment_rounding;  // of a BF16 v without a second component
};

/// One parameter's state. `extra` is the weight's second component (weight_write.h), `v_extra` is dv. Absent parts are
/// 0.
struct AdamWState {
  float w, extra, m, v, v_extra;
};

/// Uniform on 0..65535, drawn for this element, tensor and step alone; used where the strategy rounds stochastically.
struct AdamWDithers {
  uint16_t weight, first_moment, second_moment;
};

/// `intended` is D in FP32 before any rounding of it; EDQ compares -D with what happened to the weight.
struct AdamWUpdate {
  AdamWState state;
  float intended;
};

template <Strategy kStrategy>
using RuleOf = WeightRule<strategy_info(kStrategy).write>;

/// The value that the whole state stands for, exactly.
template <Strategy kStrategy>
DITHER_INLINE double full_weight(const AdamWState& s) {
  return RuleOf<kStrategy>::full({s.w, s.extra});
}

/// x as a moment of type kType holds it.
template <DType kType>
DITHER_INLINE float as_moment(float x, Rounding rounding, uint16_t dither) {
  if constexpr (kType == DType::fp32) return x;
  return rounding == Rounding::stochastic ? to_float(round_stochastic(x, dither)) : as_bf16(x);
}

/// log2(|D| / ulp(w)) in units of 1 / kOctave, with log2 linear between powers of two (at most 0.086 too low): whole
/// numbers, so that sums over them have no order. Meaningful where has_size(): D and w normal numbers.
constexpr int32_t kOctave = 256;
DITHER_INLINE bool has_size(float d, float w) {
  constexpr uint32_t kExponent = 0x7F800000u;
  return (std::bit_cast<uint32_t>(d) & kExponent) != 0 && (std::bit_cast<uint32_t>(w) & kExponent) != 0;
}
DITHER_INLINE int32_t log2_ulps(float d, float w) {
  const int32_t size = static_cast<int32_t>((std::bit_cast<uint32_t>(d) & 0x7FFFFFFFu) >> 15);
  const int32_t exponent = static_cast<int32_t>((std::bit_cast<uint32_t>(w) & 0x7FFFFFFFu) >> 23);
  return size - (exponent - 7) * kOctave;  // 7 stored mantissa bits; the two biases cancel
}

/// D with every operation rounded to BF16; a product added to something (addcmul) counts as one operation.
DITHER_INLINE float intended_bf16(float m, float v, float w, const AdamWStep& step) {
  const float denominator = bf16_add(as_bf16(sqrtf(as_bf16(v / step.bias2))), step.epsilon);
  const float direction = as_bf16(as_bf16(m / step.bias1) / denominator);
  return bf16_mul(step.learning_rate, as_bf16(direction + step.weight_decay * w));
}

DITHER_INLINE float intended_fp32(float m, float v, float w, const AdamWStep& step) {
  const float direction = (m / step.bias1) / (sqrtf(v / step.bias2) + step.epsilon);
  return step.learning_rate * (direction + step.weight_decay * w);
}

/// The update of one element. kFirst, kSecond: types of the moments, where the strategy leaves them free. kMath bf16 is
/// for strategies whose states are all BF16.
template <Strategy kStrategy, Math kMath, DType kFirst = strategy_info(kStrategy).first_moment,
          DType kSecond = strategy_info(kStrategy).second_moment>
DITHER_INLINE AdamWUpdate adamw_update(const AdamWState& s, float gradient, AdamWDithers dithers,
                                       const AdamWStep& step) {
  using Rule = RuleOf<kStrategy>;
  constexpr bool kLiteral = kMath == Math::bf16;
  AdamWState next = s;

  const float scaled = step.gradient_scale * gradient;
  const float g = kLiteral ? as_bf16(scaled) : scaled;
  const float decayed_m = step.beta1 * s.m;
  const float m = (kLiteral ? as_bf16(decayed_m) : decayed_m) + step.rest1 * g;
  next.m = as_moment<kFirst>(m, step.first_moment_rounding, dithers.first_moment);

  float v;
  if constexpr (strategy_info(kStrategy).second_moment_extra == DType::bf16) {
    const Expansion decayed = multiply({s.v, s.v_extra}, step.beta2_parts);
    const Expansion grown = grow(decayed, as_bf16(step.rest2 * g * g));
    v = next.v = grown.hi;
    next.v_extra = grown.lo;
  } else {
    const float decayed_v = step.beta2 * s.v;
    v = (kLiteral ? as_bf16(decayed_v) : decayed_v) + step.rest2 * g * g;
    next.v = as_moment<kSecond>(v, step.second_moment_rounding, dithers.second_moment);
  }

  const StoredWeight w = {s.w, s.extra};
  const float intended =
      kLiteral ? intended_bf16(next.m, next.v, s.w, step) : intended_fp32(m, v, Rule::value(w), step);
  const StoredWeight written = Rule::subtract(w, intended, dithers.weight);
  next.w = written.w;
  next.extra = written.extra;
  return {next, intended};
}

}  // namespace dither
