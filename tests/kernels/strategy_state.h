// The state that AdamW keeps for a strategy, and an operation over it, for the tests of updates.
#pragma once

#include <vector>

#include "kernels/numerics/adamw.h"
#include "tests/kernels/flat_layout.h"
#include "tests/kernels/tensors.h"

namespace dither {

/// A strategy's state over the flat layout; NaN in the gaps, which nothing may touch.
struct State {
  StrategyInfo info;
  TestTensor w, extra, m, v, v_extra;

  explicit State(Strategy strategy)
      : State(strategy, strategy_info(strategy).first_moment, strategy_info(strategy).second_moment) {}
  State(Strategy strategy, DType first_moment, DType second_moment)
      : info(strategy_info(strategy)),
        w(info.weight, kFlatElements),
        extra(info.weight_extra, kFlatElements),
        m(first_moment, kFlatElements),
        v(second_moment, kFlatElements),
        v_extra(info.second_moment_extra, kFlatElements) {
    const TestTensor draw = normal_tensor(DType::fp32, kFlatElements, 21, 0.02);
    const TestTensor moment = normal_tensor(DType::fp32, kFlatElements, 22, 1e-3);
    for_each_element(flat_layout(), [&](const Segment&, int64_t i, int64_t) {
      const auto initial = static_cast<float>(draw.get(i));
      const StoredWeight stored = with_weight_rule(info.write, [&](auto rule) { return rule.initial(initial); });
      w.set(i, stored.w);
      if (info.weight_extra != DType::none) extra.set(i, stored.extra);
      m.set(i, moment.get(i));
      v.set(i, 1e-6 + moment.get(i) * moment.get(i));
      if (info.second_moment_extra != DType::none) v_extra.set(i, v.get(i) * 0x1p-11);
    });
  }
  AdamWState at(int64_t i) const {
    const auto part = [i](const TestTensor& t) {
      return t.type() == DType::none ? 0.0f : static_cast<float>(t.get(i));
    };
    return {part(w), part(extra), part(m), part(v), part(v_extra)};
  }
  void put(int64_t i, const AdamWState& s) {
    w.set(i, s.w);
    m.set(i, s.m);
    v.set(i, s.v);
    if (extra.type() != DType::none) extra.set(i, s.extra);
    if (v_extra.type() != DType::none) v_extra.set(i, s.v_extra);
  }
  bool guard_intact() const {
    for (const TestTensor* t : {&w, &extra, &m, &v, &v_extra}) {
      if (!t->guard_intact()) return false;
    }
    return true;
  }
};

inline bool same_bits(const State& a, const State& b) {
  return same_bits(a.w, b.w) && same_bits(a.extra, b.extra) && same_bits(a.m, b.m) && same_bits(a.v, b.v) &&
         same_bits(a.v_extra, b.v_extra);
}

inline StepScalars step_scalars(uint32_t step) {
  StepScalars s;
  s.learning_rate = 6e-4f;
  s.bias1 = 0.271f;
  s.bias2 = 0.1426f;
  s.step = step;
  s.clip_factor = 0.75f;
  return s;
}

inline AdamW operation(State& state, ConstView gradient, const std::vector<Segment>& segments,
                       const StepScalars& scalars) {
  const auto view = [](TestTensor& t) { return t.type() == DType::none ? View{} : View(t); };
  return {.weight = view(state.w),
          .weight_extra = view(state.extra),
          .first_moment = view(state.m),
          .second_moment = view(state.v),
          .second_moment_extra = view(state.v_extra),
          .gradient = gradient,
          .segments = segments.data(),
          .segment_count = static_cast<int64_t>(segments.size()),
          .strategy = state.info.id,
          .math = Math::fp32,
          .first_moment_rounding = Rounding::nearest,
          .second_moment_rounding = Rounding::nearest,
          .beta1 = 0.9,
          .beta2 = 0.95,
          .epsilon = 1e-8,
          .weight_decay = 0.1,
          .seed = 1337,
          .scalars = &scalars,
          .sums = nullptr};
}

}  // namespace dither
