// From what one strategy stores of a parameter to what another does. docs/checkpoint-format.md has the table of what is
// exact.
//
//   weight        the FP32 value that the whole state stands for (WeightRule::full, to nearest where that has more
//                 digits), stored anew as if drawn (WeightRule::initial)
//   first moment  its value, to nearest where it becomes BF16
//   second moment v + dv, rounded to FP32; to nearest where it becomes BF16; (v, dv) takes both halves
#pragma once

#include <cstddef>  // size_t, which strategy.h names
#include <cstdint>

#include "kernels/numerics/strategy.h"
#include "kernels/view.h"

namespace dither {

/// How a parameter's state is stored.
struct StateFormat {
  Strategy strategy;
  DType first_moment, second_moment;  // a choice under split32

  DType weight() const { return strategy_info(strategy).weight; }
  DType weight_extra() const { return strategy_info(strategy).weight_extra; }
  DType second_moment_extra() const { return strategy_info(strategy).second_moment_extra; }
  bool operator==(const StateFormat& other) const = default;
};

/// Some elements of it in host memory; the views have the format's types, absent ones are empty.
struct StateElements {
  View weight, weight_extra, first_moment, second_moment, second_moment_extra;
};

/// Converts `count` elements. Between equal formats it copies bits.
void convert_state(const StateFormat& from, const StateElements& source, const StateFormat& to,
                   const StateElements& target, int64_t count);

}  // namespace dither
