// THE list of precision strategies: what each one stores and how it writes the weight. The config's allowed values, the
// memory plan, the optimizer, the files of weights and the documentation derive from it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/numerics/dtype.h"
#include "kernels/numerics/weight_write.h"

namespace dither {

enum class Strategy : uint8_t {
  fp32,
  bf16,
  bf16_sr,
  bf16_kahan,
  collage_light,
  collage_plus,
  bf16_fp32_states,
  split32,
  mixed,
  mixed_autocast
};

struct StrategyInfo {
  Strategy id;
  const char* name;
  DType weight;               // read by forward and backward
  DType weight_extra;         // the second component: of an expansion, of a split FP32 value, or the master weight
  DType gradient;             // default storage; precision.gradient may change it
  DType first_moment;         // } precision.first_moment and second_moment
  DType second_moment;        // } may change them where free_moments says so
  DType second_moment_extra;  // dv of an expansion
  DType compute;              // default of activations and products
  bool free_moments;          // the moments may be BF16 or FP32, each by itself
  WeightWrite write;
  const char* meaning;  // one line for the documentation and the start-up table
  const char* source;   // where the method was published; "": common practice
};

namespace strategy_table {
constexpr DType kNone = DType::none, kBf16 = DType::bf16, kFp32 = DType::fp32, kInt16 = DType::int16;
using enum Strategy;
using Write = WeightWrite;
}  // namespace strategy_table

/// In the order of the enumerators. The rules of writing are in weight_write.h, the whole update in adamw.h.
inline constexpr auto kStrategies = [] {
  using namespace strategy_table;
  // clang-format off
  return std::to_array<StrategyInfo>({
    // id, name                             weight extra   grad.  m      v      v_extra compute free  write
    {fp32, "fp32",                          kFp32, kNone,  kFp32, kFp32, kFp32, kNone, kFp32, false, Write::exact,
     "FP32 everything: weights, gradients, moments, activations and products", ""},
    {bf16, "bf16",                          kBf16, kNone,  kBf16, kBf16, kBf16, kNone, kBf16, false, Write::nearest,
     "BF16 weights written with round to nearest, BF16 moments: small updates are lost", "A of arXiv 2405.03637"},
    {bf16_sr, "bf16_sr",                    kBf16, kNone,  kBf16, kBf16, kBf16, kNone, kBf16, false, Write::stochastic,
     "BF16 weights written with stochastic rounding, BF16 moments", "Ozkara, Yu, Park, arXiv 2502.20566"},
    {bf16_kahan, "bf16_kahan",              kBf16, kBf16,  kBf16, kBf16, kBf16, kNone, kBf16, false, Write::kahan,
     "BF16 weights with Kahan summation, BF16 moments", "Zamirai et al., arXiv 2010.06192"},
    {collage_light, "collage_light",        kBf16, kBf16,  kBf16, kBf16, kBf16, kNone, kBf16, false, Write::grow,
     "BF16 weights as length-2 expansions (Collage light), BF16 moments", "Yu et al., arXiv 2405.03637"},
    {collage_plus, "collage_plus",          kBf16, kBf16,  kBf16, kBf16, kBf16, kBf16, kBf16, false, Write::grow,
     "BF16 weights and second moments as length-2 expansions (Collage plus)", "Yu et al., arXiv 2405.03637"},
    {bf16_fp32_states, "bf16_fp32_states",  kBf16, kNone,  kBf16, kFp32, kFp32, kNone, kBf16, false, Write::nearest,
     "BF16 weights written with round to nearest, FP32 moments", "D without master weights in arXiv 2405.03637"},
    {split32, "split32",                    kBf16, kInt16, kBf16, kFp32, kFp32, kNone, kBf16, true,  Write::split,
     "FP32 weights in two halves, of which forward and backward read the upper, FP32 moments", ""},
    {mixed, "mixed",                        kBf16, kFp32,  kFp32, kFp32, kFp32, kNone, kBf16, false, Write::master,
     "BF16 weights copied from FP32 master weights, FP32 moments", "Micikevicius et al., arXiv 1710.03740 (O2)"},
    {mixed_autocast, "mixed_autocast",      kFp32, kNone,  kFp32, kFp32, kFp32, kNone, kBf16, false, Write::exact,
     "FP32 weights cast to BF16 for each product, FP32 gradients and moments", "torch.autocast (O1)"},
  });
  // clang-format on
}();

constexpr const StrategyInfo& strategy_info(Strategy strategy) { return kStrategies[static_cast<size_t>(strategy)]; }

/// Bytes of weight, extras, gradient and moments for each parameter of a strategy that stores gradient and moments so.
constexpr int64_t bytes_per_parameter(const StrategyInfo& s, DType gradient, DType first_moment, DType second_moment) {
  return size_of(s.weight) + size_of(s.weight_extra) + size_of(gradient) + size_of(first_moment) +
         size_of(second_moment) + size_of(s.second_moment_extra);
}

/// With the strategy's own types.
constexpr int64_t bytes_per_parameter(const StrategyInfo& s) {
  return bytes_per_parameter(s, s.gradient, s.first_moment, s.second_moment);
}

/// Whether every part of the state is BF16: only then is there a literal program of BF16 operations (Math::bf16).
constexpr bool all_bf16(const StrategyInfo& s) {
  const auto bf16_or_none = [](DType type) { return type == DType::bf16 || type == DType::none; };
  return s.weight == DType::bf16 && bf16_or_none(s.weight_extra) && s.first_moment == DType::bf16 &&
         s.second_moment == DType::bf16;
}

static_assert([] {
  for (size_t i = 0; i < kStrategies.size(); ++i) {
    if (kStrategies[i].id != static_cast<Strategy>(i)) return false;
  }
  return true;
}());  // strategy_info() indexes by id

}  // namespace dither
