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
  Rounding second_moment_rounding;  // of a BF16 v without a second component
};

/// One parameter's state. `extra` is dw of an expansion or the master weight; `v_extra` is dv. Absent parts are 0.
struct AdamWState {
  float w, extra, m, v, v_extra;
};

/// Uniform on 0..65535, drawn for this element, tensor and step alone; used where the strategy rounds stochastically.
struct AdamWDithers {
  uint16_t weight, second_moment;
};

/// `intended` is D in FP32 before any rounding of it; EDQ compares -D with what happened to the weight.
struct AdamWUpdate {
  AdamWState state;
  float intended;
};

/// The value that the whole state stands for: hi + lo of an expansion, the master weight, or the weight itself.
template <Strategy kStrategy>
DITHER_HOST_DEVICE inline double full_weight(const AdamWState& s) {
  constexpr StrategyInfo info = kStrategies[static_cast<size_t>(kStrategy)];
  if constexpr (info.write == WeightWrite::grow) return static_cast<double>(s.w) + static_cast<double>(s.extra);
  if constexpr (info.write == WeightWrite::master) return static_cast<double>(s.extra);
  return static_cast<double>(s.w);
}

/// D with every operation rounded to BF16; a product added to something (addcmul) counts as one operation.
DITHER_HOST_DEVICE inline float intended_bf16(float m, float v, float w, const AdamWStep& step) {
  const float denominator = bf16_add(as_bf16(sqrtf(as_bf16(v / step.bias2))), step.epsilon);
  const float direction = as_bf16(as_bf16(m / step.bias1) / denominator);
  return bf16_mul(step.learning_rate, as_bf16(direction + step.weight_decay * w));
}

DITHER_HOST_DEVICE inline float intended_fp32(float m, float v, float w, const AdamWStep& step) {
  const float direction = (m / step.bias1) / (sqrtf(v / step.bias2) + step.epsilon);
  return step.learning_rate * (direction + step.weight_decay * w);
}

/// The update of one element. Promise for bf16_sr: the mean of w' over all 65,536 dithers is the FP32 value w - D
/// exactly, unless that overflows BF16. kMath bf16 is for strategies whose states are all BF16.
template <Strategy kStrategy, Math kMath>
DITHER_HOST_DEVICE inline AdamWUpdate adamw_update(const AdamWState& s, float gradient, AdamWDithers dithers,
                                                   const AdamWStep& step) {
  constexpr StrategyInfo info = kStrategies[static_cast<size_t>(kStrategy)];
  constexpr bool kLiteral = kMath == Math::bf16;
  AdamWState next = s;

  const float scaled = step.gradient_scale * gradient;
  const float g = kLiteral ? as_bf16(scaled) : scaled;
  const float decayed_m = step.beta1 * s.m;
  const float m = (kLiteral ? as_bf16(decayed_m) : decayed_m) + step.rest1 * g;
  next.m = info.first_moment == DType::bf16 ? as_bf16(m) : m;

  float v;
  if constexpr (info.second_moment_extra == DType::bf16) {
    const Expansion decayed = multiply({s.v, s.v_extra}, step.beta2_parts);
    const Expansion grown = grow(decayed, as_bf16(step.rest2 * g * g));
    v = next.v = grown.hi;
    next.v_extra = grown.lo;
  } else {
    const float decayed_v = step.beta2 * s.v;
    v = (kLiteral ? as_bf16(decayed_v) : decayed_v) + step.rest2 * g * g;
    if constexpr (info.second_moment == DType::bf16) {
      const bool stochastic = step.second_moment_rounding == Rounding::stochastic;
      next.v = stochastic ? to_float(round_stochastic(v, dithers.second_moment)) : as_bf16(v);
    } else {
      next.v = v;
    }
  }

  float intended;
  if constexpr (kLiteral) {
    intended = intended_bf16(next.m, next.v, s.w, step);
  } else {
    intended = intended_fp32(m, v, info.write == WeightWrite::master ? s.extra : s.w, step);
  }

  if constexpr (info.write == WeightWrite::exact) next.w = s.w - intended;
  if constexpr (info.write == WeightWrite::nearest) next.w = as_bf16(s.w - intended);
  if constexpr (info.write == WeightWrite::stochastic) {
    next.w = to_float(round_stochastic(s.w - intended, dithers.weight));
  }
  if constexpr (info.write == WeightWrite::grow) {
    const Expansion grown = grow({s.w, s.extra}, as_bf16(-intended));
    next.w = grown.hi;
    next.extra = grown.lo;
  }
  if constexpr (info.write == WeightWrite::master) {
    next.extra = s.extra - intended;
    next.w = as_bf16(next.extra);
  }
  return {next, intended};
}

}  // namespace dither
