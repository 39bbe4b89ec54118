// AdamW of every strategy and math against a scalar loop over adamw_update(), bit for bit; cuts, threads, sums, texts.
#include <cmath>
#include <string>
#include <utility>  // index_sequence
#include <vector>

#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/cpu/random_leaf.h"
#include "tests/kernels/flat_layout.h"
#include "tests/kernels/operation_test.h"
#include "tests/kernels/strategy_state.h"
#include "tests/kernels/tensors.h"
#include "tests/kernels/test_backend.h"

namespace dither {
namespace {

/// Sums of one group in FP64, and what they are sums of in magnitude.
struct PlainSums {
  double intended_squared = 0, effective_dot = 0, full_dot = 0, full_magnitude = 0, weight_squared = 0;
  int64_t unchanged = 0, octaves = 0, sized = 0;
};

template <Strategy kStrategy, Math kMath, DType kFirst = strategy_info(kStrategy).first_moment,
          DType kSecond = strategy_info(kStrategy).second_moment>
void scalar_adamw(State& state, const TestTensor& gradient, const AdamW& op, PlainSums* sums) {
  NoiseId weight = {op.seed, 0, op.scalars->step, RandomStream::weight, 0}, first = weight, second = weight;
  first.stream = RandomStream::first_moment;
  second.stream = RandomStream::second_moment;
  for_each_element(flat_layout(), [&](const Segment& s, int64_t i, int64_t element) {
    weight.tensor = first.tensor = second.tensor = s.tensor;
    const AdamWState before = state.at(i);
    const AdamWDithers dithers = {dither_at(weight, element), dither_at(first, element), dither_at(second, element)};
    const auto next = adamw_update<kStrategy, kMath, kFirst, kSecond>(before, static_cast<float>(gradient.get(i)),
                                                                      dithers, op.step_of(*op.scalars, s.decay));
    state.put(i, next.state);
    if (sums == nullptr) return;
    PlainSums& group = sums[s.group];
    const double u = -double{next.intended};
    const double full = full_weight<kStrategy>(next.state) - full_weight<kStrategy>(before);
    group.intended_squared += u * u;
    group.effective_dot += (double{next.state.w} - double{before.w}) * u;
    group.full_dot += full * u;
    group.full_magnitude += std::fabs(full * u);
    group.weight_squared += double{before.w} * double{before.w};
    group.unchanged += next.state.w == before.w && u != 0;
    if (!has_size(next.intended, before.w)) return;
    group.octaves += log2_ulps(next.intended, before.w);
    ++group.sized;
  });
}

template <size_t... kIndex>
void scalar_adamw(State& state, const TestTensor& gradient, const AdamW& op, PlainSums* sums,
                  std::index_sequence<kIndex...>) {
  const auto try_one = [&](auto index) {
    constexpr Strategy kStrategy = kStrategies[decltype(index)::value].id;
    if (op.strategy != kStrategy) return;
    if constexpr (strategy_info(kStrategy).free_moments) {
      constexpr DType kBf16 = DType::bf16, kFp32 = DType::fp32;
      const bool first = op.first_moment.type == kBf16, second = op.second_moment.type == kBf16;
      if (first && second) return scalar_adamw<kStrategy, Math::fp32, kBf16, kBf16>(state, gradient, op, sums);
      if (first) return scalar_adamw<kStrategy, Math::fp32, kBf16, kFp32>(state, gradient, op, sums);
      if (second) return scalar_adamw<kStrategy, Math::fp32, kFp32, kBf16>(state, gradient, op, sums);
    }
    if (op.math == Math::bf16) {
      scalar_adamw<kStrategy, Math::bf16>(state, gradient, op, sums);
    } else {
      scalar_adamw<kStrategy, Math::fp32>(state, gradient, op, sums);
    }
  };
  (try_one(std::integral_constant<size_t, kIndex>{}), ...);
}

void scalar_adamw(State& state, const TestTensor& gradient, const AdamW& op, PlainSums* sums = nullptr) {
  scalar_adamw(state, gradient, op, sums, std::make_index_sequence<kStrategies.size()>());
}

Strategy any_strategy() { return kStrategies[GENERATE(range(size_t{0}, kStrategies.size()))].id; }

}  // namespace

// Catches: a lane that gets another's counter, high bits of the block dropped, halves of a word swapped, a round less.
TEST_CASE("the random bits of a leaf are those of its elements") {
  const int64_t first = GENERATE(int64_t{0}, 5 * kLeafElements, (int64_t{1} << 35) - kLeafElements, int64_t{1} << 37);
  const NoiseId id = {0x123456789ABCDEFull, 0xFEDCBA, 77, RandomStream::sampling, 0xABCDEF};
  uint16_t dithers[kLeafElements];
  draw_dithers(id, first, dithers);
  int64_t wrong = 0;
  for (int64_t i = 0; i < kLeafElements; ++i) wrong += dithers[i] != dither_at(id, first + i);
  uint32_t words[4 * kLeafBlocks];
  draw_words(id, first / 4, words);
  for (int64_t i = 0; i < 4 * kLeafBlocks; ++i) wrong += words[i] != random_word(id, first + i);
  REQUIRE(wrong == 0);
}

// Catches: fields of a state exchanged, decay where a segment has none, dithers of the flat index, of the wrong stream
// or of another step, a vectorised division or root that is not rounded as the scalar one, a contracted product, an
// FP32 gradient read as BF16, writes into gaps, sums that change the update.
OPERATION_TEST(adamw, "every strategy and math is the scalar loop over adamw_update, bit for bit") {
  const Strategy strategy = any_strategy();
  const auto math = GENERATE(Math::fp32, Math::bf16);
  const auto first = GENERATE(Rounding::nearest, Rounding::stochastic);
  const auto second = GENERATE(Rounding::nearest, Rounding::stochastic);
  if (math == Math::bf16 && !all_bf16(strategy_info(strategy))) return;
  const TestTensor gradients[2] = {normal_tensor(DType::bf16, kFlatElements, 31, 1e-3),
                                   normal_tensor(DType::fp32, kFlatElements, 32, 1e-3)};
  State state(strategy), expected(strategy);
  const std::vector<Segment> segments = flat_layout();
  UpdateSums sums[kGroups];
  for (uint32_t step = 1; step <= 2; ++step) {
    const StepScalars scalars = step_scalars(step);
    const TestTensor& gradient = gradients[step - 1];
    AdamW op = operation(state, gradient, segments, scalars);
    op.math = math;
    op.first_moment_rounding = first;
    op.second_moment_rounding = second;
    op.sums = step == 1 ? sums : nullptr;
    scalar_adamw(expected, gradient, op);
    test_backend(2)->adamw(op, {});
  }
  CAPTURE(strategy_info(strategy).name);
  REQUIRE(same_bits(state, expected));
  REQUIRE(state.guard_intact());
}

// Catches: a loop made for other types than the views', dithers drawn for an FP32 moment, or not for a BF16 one.
OPERATION_TEST(adamw, "split32 with moments of either type is the scalar loop, bit for bit") {
  const auto first = GENERATE(DType::bf16, DType::fp32), second = GENERATE(DType::bf16, DType::fp32);
  const auto rounding = GENERATE(Rounding::nearest, Rounding::stochastic);
  const TestTensor gradient = normal_tensor(DType::bf16, kFlatElements, 31, 1e-3);
  State state(Strategy::split32, first, second), expected(Strategy::split32, first, second);
  const std::vector<Segment> segments = flat_layout();
  const StepScalars scalars = step_scalars(3);
  AdamW op = operation(state, gradient, segments, scalars);
  op.first_moment_rounding = op.second_moment_rounding = rounding;
  scalar_adamw(expected, gradient, op);
  test_backend(2)->adamw(op, {});
  REQUIRE(same_bits(state, expected));
  REQUIRE(state.guard_intact());
}

// Catches: an index counted from the shard's start, leaves of sums that follow the cut, a merge that depends on
// threads.
OPERATION_TEST(adamw, "no cut into shards and no thread count changes a bit of state or sums") {
  const Strategy strategy = any_strategy();
  const TestTensor gradient = normal_tensor(DType::bf16, kFlatElements, 31, 1e-3);
  const StepScalars scalars = step_scalars(5);
  const auto update = [&](State& state, UpdateSums* sums, const std::vector<Segment>& segments, int threads) {
    AdamW op = operation(state, gradient, segments, scalars);
    op.first_moment_rounding = op.second_moment_rounding = Rounding::stochastic;
    op.sums = sums;
    test_backend(threads)->adamw(op, {});
  };
  State whole(strategy);
  UpdateSums whole_sums[kGroups];
  update(whole, whole_sums, flat_layout(), 1);
  for (const int64_t leaves : {1, 3, 20}) {
    State cut(strategy);
    UpdateSums sums[kGroups];
    update(cut, sums, cut_layout(leaves), 4);
    REQUIRE(same_bits(cut, whole));
    for (int g = 0; g < kGroups; ++g) REQUIRE(sums[g] == whole_sums[g]);
  }
}

// Catches: a constant dither, which would pass both tests above.
OPERATION_TEST(adamw, "another seed, step or tensor gives other roundings") {
  const TestTensor gradient = normal_tensor(DType::bf16, kFlatElements, 31, 1e-3);
  const StepScalars scalars = step_scalars(5), later = step_scalars(6);
  std::vector<Segment> renamed = flat_layout();
  for (Segment& s : renamed) s.tensor ^= 0x40;
  const std::vector<Segment> segments = flat_layout();
  const auto update = [&](const AdamW& op) { test_backend(2)->adamw(op, {}); };
  State base(Strategy::bf16_sr), other(Strategy::bf16_sr);
  update(operation(base, gradient, segments, scalars));
  const int changed = GENERATE(0, 1, 2);
  AdamW op = operation(other, gradient, changed == 0 ? renamed : segments, changed == 1 ? later : scalars);
  if (changed == 2) op.seed += uint64_t{1} << 40;
  update(op);
  REQUIRE(same_bits(other.m, base.m));
  int64_t differ = 0;
  for_each_element(segments, [&](const Segment&, int64_t i, int64_t) { differ += other.w.get(i) != base.w.get(i); });
  REQUIRE(differ > 1000);  // of 43,269; hundreds would be luck's doing only if most updates were representable
}

OPERATION_TEST(adamw, "a skipped step leaves every bit and every sum as it was") {
  const Strategy strategy = any_strategy();
  const TestTensor gradient = filled_tensor(DType::bf16, kFlatElements, NAN);
  State state(strategy);
  const State before = state;
  StepScalars scalars = step_scalars(5);
  scalars.apply = 0;
  const std::vector<Segment> segments = flat_layout();
  UpdateSums sums[kGroups];
  AdamW op = operation(state, gradient, segments, scalars);
  op.sums = sums;
  test_backend(2)->adamw(op, {});
  REQUIRE(same_bits(state, before));
  for (const UpdateSums& s : sums) REQUIRE(s == UpdateSums{});
}

// Catches: D taken with the wrong sign, after its rounding, or of another element; E of hi where hi + lo is meant; a
// change counted where D was 0; sums in FP32. The bound is the roundings of 40,000 FP64 additions on either side.
OPERATION_TEST(adamw, "the sums of an update are those of FP64") {
  const Strategy strategy = any_strategy();
  const auto math = GENERATE(Math::fp32, Math::bf16);
  if (math == Math::bf16 && !all_bf16(strategy_info(strategy))) return;
  TestTensor gradient = normal_tensor(DType::bf16, kFlatElements, 31, 1e-3);
  State state(strategy);
  for (int64_t i = 44 * kLeafElements; i < 44 * kLeafElements + 700; ++i) {  // D is 0 here: nothing was intended
    gradient.set(i, 0);
    state.put(i, {});
  }
  State expected = state;
  const StepScalars scalars = step_scalars(5);
  const std::vector<Segment> segments = flat_layout();
  UpdateSums sums[kGroups];
  PlainSums plain[kGroups];
  AdamW op = operation(state, gradient, segments, scalars);
  op.math = math;
  op.sums = sums;
  scalar_adamw(expected, gradient, op, plain);
  test_backend(2)->adamw(op, {});
  const auto near = [](const ExactSum& sum, double value, double magnitude) {
    return std::fabs(sum.value() - value) <= 0x1p-52 * 45'000 * magnitude;
  };
  CAPTURE(strategy_info(strategy).name);
  for (int g = 0; g < kGroups; ++g) {
    REQUIRE(near(sums[g].intended_squared, plain[g].intended_squared, plain[g].intended_squared));
    REQUIRE(near(sums[g].weight_squared, plain[g].weight_squared, plain[g].weight_squared));
    REQUIRE(near(sums[g].full_dot, plain[g].full_dot, plain[g].full_magnitude));
    REQUIRE(near(sums[g].effective_dot, plain[g].effective_dot, plain[g].intended_squared * 64));
    REQUIRE(sums[g].unchanged == plain[g].unchanged);
    REQUIRE(sums[g].octaves == plain[g].octaves);
    REQUIRE(sums[g].sized == plain[g].sized);
  }
}

// Catches: a leading update that borrows from the extra component, "unchanged" counted on the whole value. The learning
// rate is so small that no BF16 weight moves: |D| below 2^-14 of the smallest weight's half ulp.
OPERATION_TEST(adamw, "updates too small for BF16 are all lost by bf16, with FP32 moments too, and kept by the rest") {
  const auto strategy = GENERATE(Strategy::bf16, Strategy::bf16_fp32_states, Strategy::collage_light,
                                 Strategy::bf16_kahan, Strategy::split32, Strategy::mixed);
  State state(strategy);
  for_each_element(flat_layout(), [&](const Segment&, int64_t i, int64_t) {
    state.put(
        i, {.w = 1.0f, .extra = strategy == Strategy::mixed ? 1.0f : 0.0f, .m = 0x1p-10f, .v = 0x1p-20f, .v_extra = 0});
  });
  StepScalars scalars = step_scalars(5);
  scalars.learning_rate = 0x1p-12f;
  const TestTensor gradient = filled_tensor(DType::bf16, kFlatElements, 0x1p-10);
  const std::vector<Segment> segments = flat_layout();
  UpdateSums sums[kGroups];
  AdamW op = operation(state, gradient, segments, scalars);
  op.sums = sums;
  test_backend(2)->adamw(op, {});
  REQUIRE(sums[0].unchanged == 40'000);
  REQUIRE(sums[0].effective_dot.value() == 0);
  const double kept = sums[0].full_dot.value() / sums[0].intended_squared.value();
  if (strategy == Strategy::bf16 || strategy == Strategy::bf16_fp32_states) {
    REQUIRE(kept == 0);
  } else {
    REQUIRE(std::fabs(kept - 1) < 0x1p-8);  // -D rounded to BF16, or w - D to FP32
  }
}

OPERATION_TEST(adamw, "the scalars of a step come from FP64 and the segment") {
  State state(Strategy::collage_plus);
  const StepScalars scalars = step_scalars(5);
  const std::vector<Segment> segments = flat_layout();
  AdamW op = operation(state, state.w, segments, scalars);
  op.beta2 = 0.999;
  op.first_moment_rounding = Rounding::stochastic;
  const AdamWStep step = op.step_of(scalars, true);
  REQUIRE(step.rest1 == static_cast<float>(1 - 0.9));
  REQUIRE(step.rest2 == static_cast<float>(1 - 0.999));  // FP32's 1 - 0.999f is off by 5e-5 of it
  REQUIRE(step.beta2_parts.hi == 1.0f);
  REQUIRE(step.beta2_parts.lo == as_bf16(static_cast<float>(0.999 - 1.0)));
  REQUIRE(step.learning_rate == scalars.learning_rate);
  REQUIRE(step.bias1 == scalars.bias1);
  REQUIRE(step.bias2 == scalars.bias2);
  REQUIRE(step.gradient_scale == scalars.clip_factor);
  REQUIRE(step.weight_decay == 0.1f);
  REQUIRE(step.epsilon == 1e-8f);
  REQUIRE(step.first_moment_rounding == Rounding::stochastic);
  REQUIRE(step.second_moment_rounding == Rounding::nearest);
  REQUIRE(op.step_of(scalars, false).weight_decay == 0);
}

OPERATION_TEST(adamw, "what is not allowed is named") {
  State state(Strategy::mixed);
  const TestTensor gradient(DType::bf16, kFlatElements);
  const StepScalars scalars = step_scalars(1);
  std::vector<Segment> segments = flat_layout();
  const auto text = [&](auto change) -> std::string {
    AdamW op = operation(state, gradient, segments, scalars);
    change(op);
    try {
      op.check();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  REQUIRE(text([](AdamW&) {}).empty());
  REQUIRE(text([](AdamW& o) { o.weight.type = DType::fp32; }) == "adamw: weight is fp32, needs bf16");
  REQUIRE(text([](AdamW& o) { o.weight_extra = {}; }) == "adamw: weight_extra is absent, needs a BF16 or FP32 tensor");
  REQUIRE(text([](AdamW& o) { o.second_moment_extra = o.weight; }) ==
          "adamw: second_moment_extra is bf16, needs none under strategy mixed");
  REQUIRE(text([](AdamW& o) { o.first_moment.type = DType::bf16; }) == "adamw: first_moment is bf16, needs fp32");
  State split(Strategy::split32, DType::bf16, DType::fp32);
  AdamW free = operation(split, gradient, segments, scalars);
  free.check();
  free.second_moment.type = DType::int16;
  REQUIRE_THROWS_WITH(free.check(), "adamw: second_moment is int16, needs a BF16 or FP32 tensor");
  REQUIRE(text([](AdamW& o) { o.math = Math::bf16; }) ==
          "adamw: math is bf16, needs fp32 under strategy mixed, which keeps FP32 states");
  REQUIRE(text([](AdamW& o) { o.gradient = {}; }) == "adamw: gradient is absent, needs a BF16 or FP32 tensor");
  REQUIRE(text([](AdamW& o) { o.beta1 = 1; }) == "adamw: beta1 is 1, needs at least 0 and below 1");
  REQUIRE(text([](AdamW& o) { o.beta2 = -0.5; }) == "adamw: beta2 is -0.5, needs at least 0 and below 1");
  REQUIRE(text([](AdamW& o) { o.epsilon = 0; }) == "adamw: epsilon is 0, needs a finite number above 0");
  REQUIRE(text([](AdamW& o) { o.weight_decay = NAN; }) ==
          "adamw: weight_decay is nan, needs a finite number of at least 0");
  segments[2].offset = 5;
  REQUIRE_THROWS_WITH(make_cpu_backend(1)->adamw(operation(state, gradient, segments, scalars), {}),
                      "adamw: segments[2].offset is 5, needs a multiple of 1024");
}

}  // namespace dither
