// How w - D gets back into storage: one rule a struct, the only place that knows what a strategy's weight consists of.
//
// A rule says, for one parameter with stored weight w (what forward and backward read) and an extra component beside
// it:
//   value     the FP32 weight that the update reads and decays
//   subtract  the state after w <- store(w - D)
//   full      what the whole state stands for, exactly: EDQ (full) is measured on it
//   initial   the state that stands for an FP32 draw as closely as it can; so all strategies begin alike
//   formula, extra, whole   subtract in one line, the extra component's name ("": none), and what full() is: for the
//             documentation
// Values travel as floats that hold the stored type; an int16 component travels as its whole number.
#pragma once

#include "kernels/numerics/expansion.h"

namespace dither {

enum class WeightWrite : uint8_t { exact, nearest, stochastic, kahan, grow, split, master };

/// A weight as stored. `extra` is 0 where the rule has none.
struct StoredWeight {
  float w, extra;
};

template <WeightWrite>
struct WeightRule;

template <>
struct WeightRule<WeightWrite::exact> {
  static constexpr const char* extra = "";
  static constexpr const char* whole = "w";
  static constexpr const char* formula = "w = w - D in FP32";
  static DITHER_INLINE float value(StoredWeight s) { return s.w; }
  static DITHER_INLINE StoredWeight subtract(StoredWeight s, float d, uint16_t) { return {s.w - d, 0}; }
  static DITHER_INLINE double full(StoredWeight s) { return s.w; }
  static DITHER_INLINE StoredWeight initial(float draw) { return {draw, 0}; }
};

template <>
struct WeightRule<WeightWrite::nearest> {
  static constexpr const char* extra = "";
  static constexpr const char* whole = "w";
  static constexpr const char* formula = "w = RN(w - D)";
  static DITHER_INLINE float value(StoredWeight s) { return s.w; }
  static DITHER_INLINE StoredWeight subtract(StoredWeight s, float d, uint16_t) { return {as_bf16(s.w - d), 0}; }
  static DITHER_INLINE double full(StoredWeight s) { return s.w; }
  static DITHER_INLINE StoredWeight initial(float draw) { return {as_bf16(draw), 0}; }
};

/// Ozkara, Yu, Park, arXiv 2502.20566. The mean of w over all 65,536 dithers is the FP32 value w - D exactly, unless
/// that overflows BF16.
template <>
struct WeightRule<WeightWrite::stochastic> {
  static constexpr const char* extra = "";
  static constexpr const char* whole = "w";
  static constexpr const char* formula = "w = SR(w - D)";
  static DITHER_INLINE float value(StoredWeight s) { return s.w; }
  static DITHER_INLINE StoredWeight subtract(StoredWeight s, float d, uint16_t dither) {
    return {to_float(round_stochastic(s.w - d, dither)), 0};
  }
  static DITHER_INLINE double full(StoredWeight s) { return s.w; }
  static DITHER_INLINE StoredWeight initial(float draw) { return {as_bf16(draw), 0}; }
};

/// Zamirai et al., arXiv 2010.06192: c is what the last addition added too much. Every operation is BF16's.
template <>
struct WeightRule<WeightWrite::kahan> {
  static constexpr const char* extra = "c";
  static constexpr const char* whole = "w - c";
  static constexpr const char* formula = "y = RN(-D) - c; s = w + y; c = (s - w) - y; w = s, in BF16";
  static DITHER_INLINE float value(StoredWeight s) { return s.w; }
  static DITHER_INLINE StoredWeight subtract(StoredWeight s, float d, uint16_t) {
    const float y = bf16_sub(as_bf16(-d), s.extra);
    const float sum = bf16_add(s.w, y);
    return {sum, bf16_sub(bf16_sub(sum, s.w), y)};
  }
  static DITHER_INLINE double full(StoredWeight s) { return static_cast<double>(s.w) - static_cast<double>(s.extra); }
  static DITHER_INLINE StoredWeight initial(float draw) {
    const Expansion pair = pair_of(draw);
    return {pair.hi, 0.0f - pair.lo};  // +0, not -0, where nothing is left
  }
};

/// Yu et al., "Collage", arXiv 2405.03637: (w, dw) is a length-2 expansion.
template <>
struct WeightRule<WeightWrite::grow> {
  static constexpr const char* extra = "dw";
  static constexpr const char* whole = "w + dw";
  static constexpr const char* formula = "(w, dw) = Grow((w, dw), RN(-D)), in BF16";
  static DITHER_INLINE float value(StoredWeight s) { return s.w; }
  static DITHER_INLINE StoredWeight subtract(StoredWeight s, float d, uint16_t) {
    const Expansion grown = grow({s.w, s.extra}, as_bf16(-d));
    return {grown.hi, grown.lo};
  }
  static DITHER_INLINE double full(StoredWeight s) { return static_cast<double>(s.w) + static_cast<double>(s.extra); }
  static DITHER_INLINE StoredWeight initial(float draw) {
    const Expansion pair = pair_of(draw);
    return {pair.hi, pair.lo};
  }
};

/// An FP32 weight in two halves of 16 bits: w = (bits + 0x8000) >> 16 is a BF16, lo the low 16 bits with a sign, and
/// bits = (w << 16) + lo again. w is the BF16 nearest to the value, ties away from zero.
template <>
struct WeightRule<WeightWrite::split> {
  static constexpr const char* extra = "lo";
  static constexpr const char* whole = "the FP32 value (w, lo)";
  static constexpr const char* formula = "x = (w, lo) - D in FP32; w = upper half of x, rounded; lo = lower half of x";
  static DITHER_INLINE float value(StoredWeight s) {
    const uint32_t lo = static_cast<uint32_t>(static_cast<int32_t>(s.extra));
    return std::bit_cast<float>(std::bit_cast<uint32_t>(s.w) + lo);
  }
  static DITHER_INLINE StoredWeight subtract(StoredWeight s, float d, uint16_t) { return initial(value(s) - d); }
  static DITHER_INLINE double full(StoredWeight s) { return value(s); }
  static DITHER_INLINE StoredWeight initial(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;  // its payload goes: a carry would turn 0x7FFFFFFF into -0
    const uint32_t kept = nan ? (bits | 0x00400000u) & 0xFFFF0000u : bits;
    const int32_t lo = static_cast<int32_t>(kept << 16) >> 16;
    return {std::bit_cast<float>((kept + 0x8000u) & 0xFFFF0000u), static_cast<float>(lo)};
  }
};

template <>
struct WeightRule<WeightWrite::master> {
  static constexpr const char* extra = "master";
  static constexpr const char* whole = "master";
  static constexpr const char* formula = "master = master - D in FP32; w = RN(master)";
  static DITHER_INLINE float value(StoredWeight s) { return s.extra; }
  static DITHER_INLINE StoredWeight subtract(StoredWeight s, float d, uint16_t) { return initial(s.extra - d); }
  static DITHER_INLINE double full(StoredWeight s) { return s.extra; }
  static DITHER_INLINE StoredWeight initial(float draw) { return {as_bf16(draw), draw}; }
};

/// body(WeightRule<...>()) with the rule that `write` names.
template <class Body>
constexpr auto with_weight_rule(WeightWrite write, const Body& body) {
  switch (write) {
    case WeightWrite::nearest:
      return body(WeightRule<WeightWrite::nearest>());
    case WeightWrite::stochastic:
      return body(WeightRule<WeightWrite::stochastic>());
    case WeightWrite::kahan:
      return body(WeightRule<WeightWrite::kahan>());
    case WeightWrite::grow:
      return body(WeightRule<WeightWrite::grow>());
    case WeightWrite::split:
      return body(WeightRule<WeightWrite::split>());
    case WeightWrite::master:
      return body(WeightRule<WeightWrite::master>());
    case WeightWrite::exact:
      break;
  }
  return body(WeightRule<WeightWrite::exact>());
}

}  // namespace dither
