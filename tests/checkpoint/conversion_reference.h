// What the tests of conversions measure against: a state of any format in memory, and what it becomes in another, in
// FP64 arithmetic on the values that the stored numbers stand for.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

#include "src/checkpoint/conversion.h"
#include "tests/catch.h"
#include "tests/numerics/reference.h"

namespace dither::conversion_reference {

inline StateFormat format_of(Strategy strategy) {
  const StrategyInfo& info = strategy_info(strategy);
  return {strategy, info.first_moment, info.second_moment};
}

/// The ten strategies as they are, and split32 with its other moments.
inline std::vector<StateFormat> all_formats() {
  std::vector<StateFormat> formats;
  for (const StrategyInfo& info : kStrategies) formats.push_back(format_of(info.id));
  for (const DType first : {DType::bf16, DType::fp32}) formats.push_back({Strategy::split32, first, DType::bf16});
  formats.push_back({Strategy::split32, DType::bf16, DType::fp32});
  return formats;
}

/// A tensor of any type, with one more element behind it that nothing may touch.
class Tensor {
 public:
  Tensor(DType type, size_t elements) : type_(type), elements_(elements) {
    bytes_.assign(static_cast<size_t>(size_of(type)) * (elements + 1), kGuard);
  }
  View view() { return type_ == DType::none ? View{} : View{bytes_.data(), type_}; }
  double get(size_t i) const {
    if (type_ == DType::fp32) return read<float>(i);
    if (type_ == DType::bf16) return to_float(read<Bf16>(i));
    return type_ == DType::int16 ? read<int16_t>(i) : 0;
  }
  void set(size_t i, double value) {
    if (type_ == DType::fp32) write(i, static_cast<float>(value));
    if (type_ == DType::int16) write(i, static_cast<int16_t>(value));
    if (type_ != DType::bf16) return;
    REQUIRE((std::isnan(value) || reference::is_bf16(static_cast<float>(value))));  // the tests round, not this
    write(i, Bf16{static_cast<uint16_t>(reference::bits_of(static_cast<float>(value)) >> 16)});
  }
  template <class T>
  void write(size_t i, T value) {
    std::memcpy(bytes_.data() + i * sizeof(T), &value, sizeof(T));
  }
  bool guard_intact() const {
    const auto guard = bytes_.begin() + static_cast<std::ptrdiff_t>(elements_) * size_of(type_);
    return std::all_of(guard, bytes_.end(), [](unsigned char byte) { return byte == kGuard; });
  }
  bool operator==(const Tensor& other) const = default;

 private:
  static constexpr unsigned char kGuard = 0xA5;
  template <class T>
  T read(size_t i) const {
    T value;
    std::memcpy(&value, bytes_.data() + i * sizeof(T), sizeof(T));
    return value;
  }
  DType type_;
  size_t elements_;
  std::vector<unsigned char> bytes_;
};

/// The state of `elements` weights.
struct State {
  StateFormat format;
  size_t elements;
  Tensor weight, extra, first, second, second_extra;

  State(const StateFormat& f, size_t n)
      : format(f),
        elements(n),
        weight(f.weight(), n),
        extra(f.weight_extra(), n),
        first(f.first_moment, n),
        second(f.second_moment, n),
        second_extra(f.second_moment_extra(), n) {}
  StateElements views() { return {weight.view(), extra.view(), first.view(), second.view(), second_extra.view()}; }
  bool same_bits(const State& o) const {
    return weight == o.weight && extra == o.extra && first == o.first && second == o.second &&
           second_extra == o.second_extra;
  }
  bool guards_intact() const {
    return weight.guard_intact() && extra.guard_intact() && first.guard_intact() && second.guard_intact() &&
           second_extra.guard_intact();
  }
};

inline State converted(State from, const StateFormat& to) {
  State result(to, from.elements);
  convert_state(from.format, from.views(), to, result.views(), static_cast<int64_t>(from.elements));
  return result;
}

// The reference: plain arithmetic in FP64 on the values that the stored numbers stand for.

enum class Kind { fp32, bf16, kahan, collage, split, master };

inline Kind kind_of(Strategy strategy) {
  switch (strategy) {
    case Strategy::fp32:
    case Strategy::mixed_autocast:
      return Kind::fp32;
    case Strategy::bf16_kahan:
      return Kind::kahan;
    case Strategy::collage_light:
    case Strategy::collage_plus:
      return Kind::collage;
    case Strategy::split32:
      return Kind::split;
    case Strategy::mixed:
      return Kind::master;
    default:
      return Kind::bf16;
  }
}

/// The distance of neighbouring FP32 from |x| upward.
inline double step_fp32(double x) {
  const int exponent = x == 0 ? -126 : std::clamp(std::ilogb(x), -126, 127);
  return std::ldexp(1.0, exponent - 23);
}

inline double nearest_fp32(double x) {
  if (x == 0 || !std::isfinite(x)) return x;
  const double rounded = std::nearbyint(x / step_fp32(x)) * step_fp32(x);
  return std::fabs(rounded) >= 0x1p128 ? std::copysign(INFINITY, x) : rounded;
}

/// split32's upper half: to nearest, ties away from zero; 2^128 where the number it stores is infinite.
inline double split_upper(double x) {
  return x == 0 ? x : std::round(x / reference::step_bf16(x)) * reference::step_bf16(x);
}

/// What a stored weight stands for.
inline double value_of(Kind kind, double w, double extra) {
  double value = w;
  if (kind == Kind::master) value = extra;
  if (kind == Kind::kahan) value = w - extra;
  if (kind == Kind::collage) value = w + extra;
  if (kind == Kind::split && extra != 0) {
    const double upper = std::isinf(w) ? std::copysign(0x1p128, w) : w;
    int exponent = 0;
    const bool power_of_two = std::frexp(std::fabs(upper), &exponent) == 0.5 && exponent > -125;
    // `extra` counts FP32 numbers away from zero, and below a power of two these lie half as far apart.
    const double step = std::isinf(w) ? 0x1p104 : step_fp32(upper) * (power_of_two && extra < 0 ? 0.5 : 1);
    value = upper + std::copysign(1.0, w) * extra * step;
  }
  return value == w ? w : value;  // also -0, to which a sum would be +0
}

struct Pair {
  double w, extra;
};

/// The rest x - hi of hi = RN(x) as the BF16 nearest to it that leaves hi = RN(hi + rest).
inline double rest_of(double x, double hi) {
  const double rest = reference::nearest_bf16(x - hi);
  if (!std::isfinite(rest) || reference::nearest_bf16(hi + rest) == hi) return rest;
  return rest - std::copysign(reference::step_bf16(0.75 * rest), rest);  // it is a power of two: half an ulp of hi
}

inline Pair stored_as(Kind kind, double x) {
  const double w = reference::nearest_bf16(x);
  if (kind == Kind::fp32) return {x, 0};
  if (kind == Kind::master) return {w, x};
  if (kind == Kind::kahan) return {w, 0 - rest_of(x, w)};  // +0 where nothing is left
  if (kind == Kind::collage) return {w, rest_of(x, w)};
  if (kind == Kind::bf16) return {w, 0};
  const double upper = std::isfinite(x) ? split_upper(x) : x;
  const double steps = std::isfinite(x) ? std::copysign(1.0, x) * (x - upper) / step_fp32(x) : 0;
  return {std::fabs(upper) >= 0x1p128 ? std::copysign(INFINITY, x) : upper, steps};
}

inline double rounded_to(DType type, double x) { return type == DType::bf16 ? reference::nearest_bf16(x) : x; }

inline void set_element(State& state, size_t i, double weight, double first, double second) {
  const Pair stored = stored_as(kind_of(state.format.strategy), weight);
  state.weight.set(i, stored.w);
  state.extra.set(i, stored.extra);
  state.first.set(i, rounded_to(state.format.first_moment, first));
  const double v = rounded_to(state.format.second_moment, second);
  state.second.set(i, v);
  state.second_extra.set(i, rest_of(second, v));
}

struct Element {
  double weight, first, second;
};

inline Element element_of(const State& state, size_t i) {
  const double v = state.second.get(i), both = v + state.second_extra.get(i);
  return {value_of(kind_of(state.format.strategy), state.weight.get(i), state.extra.get(i)), state.first.get(i),
          both == v ? v : both};
}

inline State expected(const State& from, const StateFormat& to) {
  State result(to, from.elements);
  for (size_t i = 0; i < from.elements; ++i) {
    const Element e = element_of(from, i);
    set_element(result, i, nearest_fp32(e.weight), e.first, nearest_fp32(e.second));
  }
  return result;
}

}  // namespace dither::conversion_reference
