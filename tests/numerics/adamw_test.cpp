// The AdamW rule of every strategy against the same rule in FP64, and its promises: what is stored is BF16 where the
// table says so, stochastic rounding is unbiased through the whole rule, dithers touch nothing else.
#include "kernels/numerics/adamw.h"

#include <set>

#include "tests/catch.h"
#include "tests/numerics/reference.h"

using namespace dither;
using namespace dither::reference;

namespace {

constexpr double kBf16Unit = 0x1p-8;  // RN to BF16 is off by at most this share of the result
constexpr double kFp32Unit = 0x1p-24;
constexpr int kCases = 30000;  // of each strategy

struct Case {
  AdamWState state;
  float gradient;
  AdamWStep step;
};

float stored(double x, DType type) { return static_cast<float>(type == DType::bf16 ? nearest_bf16(x) : x); }

/// Weights near 0.02, gradients near 1e-3 with moments to match; every scalar of the step differs from its neutral
/// value in some cases, so that none can be left out unseen.
Case random_case(const StrategyInfo& info, Random& random) {
  const double betas1[] = {0.8, 0.9, 0.95}, betas2[] = {0.9, 0.95, 0.98, 0.99, 0.999};
  const double beta1 = betas1[random.below(3)], beta2 = betas2[random.below(5)];
  const double t = static_cast<double>(random.between(1, 1000));
  Case c = {};
  c.step.learning_rate = static_cast<float>(random.log_uniform(1e-6, 1e-1));
  c.step.beta1 = static_cast<float>(beta1);
  c.step.rest1 = static_cast<float>(1 - beta1);
  c.step.beta2 = static_cast<float>(beta2);
  c.step.rest2 = static_cast<float>(1 - beta2);
  c.step.bias1 = static_cast<float>(1 - std::pow(beta1, t));
  c.step.bias2 = static_cast<float>(1 - std::pow(beta2, t));
  c.step.epsilon = random.below(2) == 0 ? 1e-8f : 1e-3f;
  c.step.weight_decay = random.below(3) == 0 ? 0.0f : static_cast<float>(random.log_uniform(0.01, 10));
  c.step.gradient_scale = random.below(2) == 0 ? 1.0f : static_cast<float>(random.uniform());
  c.step.beta2_parts = expansion_of(beta2);
  c.step.second_moment_rounding = Rounding::nearest;

  const double scale = 1e-3 * c.step.gradient_scale;
  c.gradient = stored(random.sign() * random.log_uniform(1e-5, 1e-2), info.gradient);
  c.state.m = stored(random.sign() * scale * random.log_uniform(1e-2, 2), info.first_moment);
  const double v = scale * scale * random.log_uniform(1e-2, 4), w = random.sign() * random.log_uniform(1e-4, 0.2);
  c.state.v = stored(v, info.second_moment);
  c.state.w = stored(w, info.weight);
  if (info.second_moment_extra == DType::bf16) c.state.v_extra = stored(v - c.state.v, DType::bf16);
  if (info.write == WeightWrite::grow) c.state.extra = stored(w - c.state.w, DType::bf16);
  if (info.write == WeightWrite::master) c.state.extra = static_cast<float>(w);
  return c;
}

AdamWDithers random_dithers(Random& random) {
  return {static_cast<uint16_t>(random.bits()), static_cast<uint16_t>(random.bits())};
}

/// Half a step of `type` at x: what RN may cost.
double half_step(double x, DType type) { return type == DType::bf16 ? 0.5 * step_bf16(x) : kFp32Unit * std::fabs(x); }

/// x is stored as `type` and within one rounding of the exact value, whose own FP32 error is at most `slack`.
bool is_rounded(float x, double exact, DType type, double slack) {
  const double larger = std::max(std::fabs(exact), std::fabs(double{x}));
  return (type != DType::bf16 || is_bf16(x)) && std::fabs(x - exact) <= half_step(larger, type) + slack;
}

/// The weight written is what the strategy's rule makes of the state and of D.
template <Strategy kStrategy>
bool write_is_right(const AdamWState& before, const AdamWState& after, double d) {
  constexpr StrategyInfo info = strategy_info(kStrategy);
  const double full = full_weight<kStrategy>(before);
  const double fp32 = static_cast<float>(full - d);
  switch (info.write) {
    case WeightWrite::exact:
      return double{after.w} == fp32;
    case WeightWrite::nearest:
      return double{after.w} == nearest_bf16(fp32);
    case WeightWrite::stochastic:
      return is_bf16(after.w) && std::fabs(after.w - fp32) < step_bf16(fp32);
    case WeightWrite::master:
      return double{after.extra} == fp32 && double{after.w} == nearest_bf16(fp32);
    case WeightWrite::grow:
      break;
  }
  const double moved = double{before.w} - nearest_bf16(d);  // one rounding of the low part is all that Grow may lose
  const double low = before.extra + (moved - nearest_bf16(moved));
  return double{after.w} == nearest_bf16(double{after.w} + after.extra) && is_bf16(after.w) && is_bf16(after.extra) &&
         std::fabs(full_weight<kStrategy>(after) - (full - nearest_bf16(d))) <= kBf16Unit * std::fabs(low);
}

template <Strategy kStrategy>
void check_against_fp64() {
  constexpr StrategyInfo info = strategy_info(kStrategy);
  Broken broken;
  Random random(1 + static_cast<uint64_t>(kStrategy));
  for (int i = 0; i < kCases; ++i) {
    const Case c = random_case(info, random);
    const AdamWStep& s = c.step;
    const AdamWUpdate found = adamw_update<kStrategy, Math::fp32>(c.state, c.gradient, random_dithers(random), s);

    const double g = double{s.gradient_scale} * c.gradient;
    const double m_size = std::fabs(double{s.beta1} * c.state.m) + std::fabs(s.rest1 * g);
    const double m = double{s.beta1} * c.state.m + s.rest1 * g;
    broken.unless(is_rounded(found.state.m, m, info.first_moment, 4 * kFp32Unit * m_size), i, m);

    double v = double{s.beta2} * c.state.v + s.rest2 * g * g;
    if constexpr (info.second_moment_extra == DType::bf16) {
      // MulExp drops or rounds terms of at most 7 * 2^-16 of v, Grow two more, RN of the product 2^-8 of it.
      v = (double{s.beta2_parts.hi} + s.beta2_parts.lo) * (double{c.state.v} + c.state.v_extra) + s.rest2 * g * g;
      const double bound = 9 * kBf16Unit * kBf16Unit * v + kBf16Unit * (s.rest2 * g * g);
      broken.unless(std::fabs(double{found.state.v} + found.state.v_extra - v) <= bound, i, v);
      const float scaled = s.gradient_scale * c.gradient;
      const float product = as_bf16(s.rest2 * scaled * scaled);  // Grow adds a BF16
      const Expansion grown = grow(multiply({c.state.v, c.state.v_extra}, s.beta2_parts), product);
      broken.unless(grown.hi == found.state.v && grown.lo == found.state.v_extra, i, v);
      v = found.state.v;  // the rule takes the leading component, after its update
    } else {
      broken.unless(is_rounded(found.state.v, v, info.second_moment, 6 * kFp32Unit * v), i, v);
      broken.unless(found.state.v_extra == 0, i);
    }

    // Roundings: 4 in M, half of 6 in V through the square root, 8 operations; 16 bounds them with their products.
    const double w = info.write == WeightWrite::master ? c.state.extra : c.state.w;
    const double denominator = std::sqrt(v / s.bias2) + s.epsilon;
    const double d = s.learning_rate * (m / s.bias1 / denominator + double{s.weight_decay} * w);
    const double size = s.learning_rate * (m_size / s.bias1 / denominator + std::fabs(double{s.weight_decay} * w));
    broken.unless(std::fabs(found.intended - d) <= 16 * kFp32Unit * size, i, d, found.intended);

    broken.unless(write_is_right<kStrategy>(c.state, found.state, found.intended), i, c.state.w, found.intended);
    if (info.weight_extra == DType::none) broken.unless(found.state.extra == 0, i);
  }
  INFO(info.name);
  REQUIRE_NONE(broken);
}

/// One operation of the literal program: FP32, then RN to BF16. With FP32 scalars that is the definition, not a detail:
/// FP32(0.9) lies below 0.9, and FP32(0.9) * m rounds to exact ties of BF16 that the true product misses.
double rn(double exact) { return nearest_bf16(static_cast<float>(exact)); }

/// D by the literal program of the papers: every operation rounded once, addcmul being one operation.
double literal_intended(const Case& c, double m, double v) {
  const double denominator = rn(rn(std::sqrt(rn(v / c.step.bias2))) + c.step.epsilon);
  const double adam = rn(rn(m / c.step.bias1) / denominator);
  return rn(c.step.learning_rate * rn(adam + double{c.step.weight_decay} * c.state.w));
}

template <Strategy kStrategy>
void check_literal_program() {
  constexpr StrategyInfo info = strategy_info(kStrategy);
  int64_t m_off = 0, v_off = 0, d_off = 0;
  Broken broken;
  Random random(11 + static_cast<uint64_t>(kStrategy));
  for (int i = 0; i < kCases; ++i) {
    const Case c = random_case(info, random);
    const AdamWUpdate found = adamw_update<kStrategy, Math::bf16>(c.state, c.gradient, random_dithers(random), c.step);
    const double g = rn(double{c.step.gradient_scale} * c.gradient);
    const double m = rn(rn(double{c.step.beta1} * c.state.m) + c.step.rest1 * g);
    m_off += m != double{found.state.m};
    if constexpr (info.second_moment_extra == DType::none) {
      const double v = rn(rn(double{c.step.beta2} * c.state.v) + c.step.rest2 * g * g);
      v_off += v != double{found.state.v};
    }
    const double d = literal_intended(c, found.state.m, found.state.v);
    d_off += d != double{found.intended};
    broken.unless(is_bf16(found.intended) && write_is_right<kStrategy>(c.state, found.state, found.intended), i);
  }
  INFO(info.name);
  REQUIRE_NONE(broken);
  // addcmul rounds its product to FP32 as well: that decides one case in 2^15 or so.
  CHECK(m_off < kCases / 1000);
  CHECK(v_off < kCases / 1000);
  CHECK(d_off < kCases / 1000);
}

template <Math kMath>
void check_unbiased() {
  Random random(21);
  for (int repeat = 0; repeat < 12; ++repeat) {
    Case c = random_case(strategy_info(Strategy::bf16_sr), random);
    c.step.second_moment_rounding = Rounding::stochastic;
    double w_sum = 0, v_sum = 0;
    Broken broken;
    AdamWDithers dithers = {0, 0x5555};
    // FP32 strategy, same inputs: its v is V before rounding. Under literal math V is the sum of two rounded parts.
    const float exact_v = adamw_update<Strategy::fp32, kMath>(c.state, c.gradient, dithers, c.step).state.v;
    const AdamWUpdate first = adamw_update<Strategy::bf16_sr, kMath>(c.state, c.gradient, dithers, c.step);
    for (uint32_t r = 0; r < 65536; ++r) {
      dithers.weight = static_cast<uint16_t>(r);
      const AdamWUpdate u = adamw_update<Strategy::bf16_sr, kMath>(c.state, c.gradient, dithers, c.step);
      broken.unless(u.state.m == first.state.m && u.state.v == first.state.v && u.intended == first.intended, r);
      w_sum += u.state.w;
    }
    dithers.weight = 0;
    for (uint32_t r = 0; r < 65536; ++r) {
      dithers.second_moment = static_cast<uint16_t>(r);
      const AdamWUpdate u = adamw_update<Strategy::bf16_sr, kMath>(c.state, c.gradient, dithers, c.step);
      broken.unless(u.state.m == first.state.m, r);
      if (kMath == Math::fp32) broken.unless(u.state.w == first.state.w, r);  // D comes from V before it was rounded
      v_sum += u.state.v;
    }
    REQUIRE_NONE(broken);
    REQUIRE(w_sum == 65536.0 * (c.state.w - first.intended));  // the difference in FP32: it is what is rounded
    REQUIRE(v_sum == 65536.0 * exact_v);
  }
}

}  // namespace

// Catches: a lost clip factor, beta1 for beta2, a missing bias correction, eps inside the root, decay outside D or
// taken from the wrong copy of the weight, D from moments already rounded, v's second component not advanced, D not
// rounded before Grow, a copy that is not RN of its master.
TEST_CASE("every strategy's update is AdamW in FP64 up to the roundings that its storage makes") {
  check_against_fp64<Strategy::fp32>();
  check_against_fp64<Strategy::bf16>();
  check_against_fp64<Strategy::bf16_sr>();
  check_against_fp64<Strategy::mixed>();
  check_against_fp64<Strategy::collage_light>();
  check_against_fp64<Strategy::collage_plus>();
}

// Catches: an operation left in FP32, one rounded twice, D from unrounded moments, a moment rounded only at the end.
TEST_CASE("math bf16 rounds every operation of the update once") {
  check_literal_program<Strategy::bf16>();
  check_literal_program<Strategy::bf16_sr>();
  check_literal_program<Strategy::collage_light>();
  check_literal_program<Strategy::collage_plus>();
}

// Catches: w - D rounded before SR, one dither for both roundings, a dither that leaks into the moments or into D.
TEST_CASE("bf16_sr is exact in the mean over all 65,536 dithers, through the whole rule, for w and for v") {
  SECTION("math fp32") { check_unbiased<Math::fp32>(); }
  SECTION("math bf16") { check_unbiased<Math::bf16>(); }
}

// Catches: v rounded stochastically though the config says nearest, or in strategies that store it exactly.
TEST_CASE("a dither of v acts only where a BF16 v is rounded stochastically") {
  Random random(31);
  int64_t moved = 0;
  for (int i = 0; i < 2000; ++i) {
    Case c = random_case(strategy_info(Strategy::bf16), random);
    const auto v_at = [&](auto update, uint16_t dither) {
      return update(c.state, c.gradient, {0, dither}, c.step).state.v;
    };
    constexpr auto kPlain = adamw_update<Strategy::bf16, Math::fp32>;
    REQUIRE(v_at(kPlain, 0) == v_at(kPlain, 0xFFFF));
    c.step.second_moment_rounding = Rounding::stochastic;
    moved += v_at(kPlain, 0) != v_at(kPlain, 0xFFFF);
    REQUIRE(v_at(adamw_update<Strategy::fp32, Math::fp32>, 0) ==
            v_at(adamw_update<Strategy::fp32, Math::fp32>, 0xFFFF));
    constexpr auto kPlus = adamw_update<Strategy::collage_plus, Math::fp32>;
    REQUIRE(v_at(kPlus, 0) == v_at(kPlus, 0xFFFF));
  }
  REQUIRE(moved > 1900);  // an FP32 V is a BF16 once in 65,536
}

// Catches: the leading component alone, the sum taken in FP32 (2^-8 apart, it may need 25 bits and more).
TEST_CASE("the full weight is hi + lo, the master, or the weight, exactly") {
  const AdamWState s = {1.0f, 0x1.02p-40f, 7, 7, 7};
  CHECK(full_weight<Strategy::fp32>(s) == 1.0);
  CHECK(full_weight<Strategy::bf16>(s) == 1.0);
  CHECK(full_weight<Strategy::bf16_sr>(s) == 1.0);
  CHECK(full_weight<Strategy::mixed>(s) == 0x1.02p-40);
  CHECK(full_weight<Strategy::collage_light>(s) == 1.0 + 0x1.02p-40);
  CHECK(full_weight<Strategy::collage_plus>(s) == 1.0 + 0x1.02p-40);
}

// Catches: a type changed in one row, a part not counted. Figures: NUMERICS 5.
TEST_CASE("the strategies cost the documented bytes a parameter and have names of their own") {
  const auto bytes = [](Strategy s) { return bytes_per_parameter(strategy_info(s), strategy_info(s).gradient); };
  CHECK(bytes(Strategy::fp32) == 16);
  CHECK(bytes(Strategy::bf16) == 8);
  CHECK(bytes(Strategy::bf16_sr) == 8);
  CHECK(bytes(Strategy::mixed) == 18);
  CHECK(bytes_per_parameter(strategy_info(Strategy::mixed), DType::bf16) == 16);
  CHECK(bytes(Strategy::collage_light) == 10);
  CHECK(bytes(Strategy::collage_plus) == 12);
  std::set<std::string> names;
  for (const StrategyInfo& info : kStrategies) names.insert(info.name);
  CHECK(names == std::set<std::string>{"fp32", "bf16", "bf16_sr", "mixed", "collage_light", "collage_plus"});
}
