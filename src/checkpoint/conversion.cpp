// Conversion of a parameter's state by way of FP32 values, a block of elements at a time: every format can be read as
// three of them (weight, first and second moment) and written from them, so twenty functions stand in for a hundred.
#include "src/checkpoint/conversion.h"

#include <algorithm>  // min
#include <array>
#include <cstddef>
#include <cstring>  // memcpy

#include "base/error.h"

namespace dither {

namespace {

constexpr int64_t kBlock = 1024;  // elements: a block of FP32 values stays in the first cache between read and write

using Values = std::array<float, static_cast<size_t>(kBlock)>;

/// Element i as the float that stands for it; 0 where the tensor is absent.
float get(ConstView view, int64_t i) {
  if (view.type == DType::fp32) return static_cast<const float*>(view.data)[i];
  if (view.type == DType::bf16) return to_float(static_cast<const Bf16*>(view.data)[i]);
  if (view.type == DType::int16) return static_cast<const int16_t*>(view.data)[i];
  return 0;
}

/// A sum of two components as FP32. Where it equals the first one, it is the first one: -0 + 0 would lose its sign.
float sum_or_first(double sum, float first) {
  // The double is exact but for components more than 45 binary places apart, so the float is the exact sum's RN.
  const float rounded = static_cast<float>(sum);
  return rounded == first ? first : rounded;
}

StateElements from_element(const StateElements& all, int64_t begin) {
  const auto moved = [begin](View view) { return view ? view.at(begin) : View(); };
  return {.weight = moved(all.weight),
          .weight_extra = moved(all.weight_extra),
          .first_moment = moved(all.first_moment),
          .second_moment = moved(all.second_moment),
          .second_moment_extra = moved(all.second_moment_extra)};
}

void convert_weights(WeightWrite from, const StateElements& source, WeightWrite to, const StateElements& target,
                     int64_t count) {
  Values values;
  with_weight_rule(from, [&](auto rule) {
    for (int64_t i = 0; i < count; ++i) {
      const StoredWeight stored = {get(source.weight, i), get(source.weight_extra, i)};
      values[static_cast<size_t>(i)] = sum_or_first(rule.full(stored), stored.w);
    }
  });
  with_weight_rule(to, [&](auto rule) {
    for (int64_t i = 0; i < count; ++i) {
      const StoredWeight stored = rule.initial(values[static_cast<size_t>(i)]);
      put(target.weight, i, stored.w);
      put(target.weight_extra, i, stored.extra);
    }
  });
}

void convert_moments(const StateElements& source, const StateElements& target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) put(target.first_moment, i, get(source.first_moment, i));
  for (int64_t i = 0; i < count; ++i) {
    const float v = get(source.second_moment, i), dv = get(source.second_moment_extra, i);
    const float value = sum_or_first(static_cast<double>(v) + static_cast<double>(dv), v);
    put(target.second_moment, i, value);  // pair_of(value).hi where that is BF16
    put(target.second_moment_extra, i, pair_of(value).lo);
  }
}

void check_views(const StateFormat& format, const StateElements& elements) {
  const auto fits = [](View view, DType type) { return view.type == type && (type == DType::none || view); };
  DITHER_ASSERT(fits(elements.weight, format.weight()));
  DITHER_ASSERT(fits(elements.weight_extra, format.weight_extra()));
  DITHER_ASSERT(fits(elements.first_moment, format.first_moment));
  DITHER_ASSERT(fits(elements.second_moment, format.second_moment));
  DITHER_ASSERT(fits(elements.second_moment_extra, format.second_moment_extra()));
}

void copy_elements(View from, View to, int64_t count) {
  if (from && count > 0) std::memcpy(to.data, from.data, static_cast<size_t>(count * size_of(from.type)));
}

}  // namespace

void convert_state(const StateFormat& from, const StateElements& source, const StateFormat& to,
                   const StateElements& target, int64_t count) {
  check_views(from, source);
  check_views(to, target);
  if (from == to) {
    copy_elements(source.weight, target.weight, count);
    copy_elements(source.weight_extra, target.weight_extra, count);
    copy_elements(source.first_moment, target.first_moment, count);
    copy_elements(source.second_moment, target.second_moment, count);
    copy_elements(source.second_moment_extra, target.second_moment_extra, count);
    return;
  }
  const WeightWrite read = strategy_info(from.strategy).write, write = strategy_info(to.strategy).write;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t block = std::min(kBlock, count - begin);
    const StateElements here = from_element(source, begin), there = from_element(target, begin);
    convert_weights(read, here, write, there, block);
    convert_moments(here, there, block);
  }
}

}  // namespace dither
