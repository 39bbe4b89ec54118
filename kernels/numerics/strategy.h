// THE list of precision strategies: what each one stores and how it writes the weight. The config's allowed values, the
// memory plan, the optimizer, the files of weights and the documentation derive from it.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/numerics/dtype.h"

namespace dither {

enum class Strategy : uint8_t { fp32, bf16, bf16_sr, mixed, collage_light, collage_plus };

/// How w - D gets back into storage (the rules are in adamw.h).
enum class WeightWrite : uint8_t {
  exact,       // FP32 weight
  nearest,     // RN to BF16
  stochastic,  // SR to BF16
  grow,        // (w, dw) is a length-2 expansion, Grow adds -D
  master,      // FP32 master weight; the BF16 weight is its RN copy
};

struct StrategyInfo {
  Strategy id;
  const char* name;
  DType weight;        // read by forward and backward
  DType weight_extra;  // dw of an expansion, or the master weight
  DType gradient;      // default storage; precision.gradient may change it
  DType first_moment;
  DType second_moment;
  DType second_moment_extra;  // dv of an expansion
  WeightWrite write;
  const char* meaning;  // one line for the documentation and the start-up table
};

inline constexpr std::array<StrategyInfo, 6> kStrategies = {{
    {Strategy::fp32, "fp32", DType::fp32, DType::none, DType::fp32, DType::fp32, DType::fp32, DType::none,
     WeightWrite::exact, "FP32 everything: weights, gradients, moments, activations and products"},
    {Strategy::bf16, "bf16", DType::bf16, DType::none, DType::bf16, DType::bf16, DType::bf16, DType::none,
     WeightWrite::nearest, "BF16 weights written with round to nearest, BF16 moments: small updates are lost"},
    {Strategy::bf16_sr, "bf16_sr", DType::bf16, DType::none, DType::bf16, DType::bf16, DType::bf16, DType::none,
     WeightWrite::stochastic, "BF16 weights written with stochastic rounding, BF16 moments"},
    {Strategy::mixed, "mixed", DType::bf16, DType::fp32, DType::fp32, DType::fp32, DType::fp32, DType::none,
     WeightWrite::master, "BF16 weights copied from FP32 master weights, FP32 moments"},
    {Strategy::collage_light, "collage_light", DType::bf16, DType::bf16, DType::bf16, DType::bf16, DType::bf16,
     DType::none, WeightWrite::grow, "BF16 weights as length-2 expansions (Collage light), BF16 moments"},
    {Strategy::collage_plus, "collage_plus", DType::bf16, DType::bf16, DType::bf16, DType::bf16, DType::bf16,
     DType::bf16, WeightWrite::grow, "BF16 weights and second moments as length-2 expansions (Collage plus)"},
}};

constexpr const StrategyInfo& strategy_info(Strategy strategy) { return kStrategies[static_cast<size_t>(strategy)]; }

/// Bytes of weight, extras, gradient and moments for each parameter, with gradients stored as `gradient`.
constexpr int64_t bytes_per_parameter(const StrategyInfo& s, DType gradient) {
  return size_of(s.weight) + size_of(s.weight_extra) + size_of(gradient) + size_of(s.first_moment) +
         size_of(s.second_moment) + size_of(s.second_moment_extra);
}

static_assert([] {
  for (size_t i = 0; i < kStrategies.size(); ++i) {
    if (kStrategies[i].id != static_cast<Strategy>(i)) return false;
  }
  return true;
}());  // strategy_info() indexes by id

}  // namespace dither
