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
  c.step.first_moment_rounding = c.step.second_moment_rounding = Rounding::nearest;

  const double scale = 1e-3 * c.step.gradient_scale;
  c.gradient = stored(random.sign() * random.log_uniform(1e-5, 1e-2), info.gradient);
  c.state.m = stored(random.sign() * scale * random.log_uniform(1e-2, 2), info.first_moment);
  const double v = scale * scale * random.log_uniform(1e-2, 4), w = random.sign() * random.log_uniform(1e-4, 0.2);
  c.state.v = stored(v, info.second_moment);
  c.state.w = stored(w, info.weight);
  if (info.second_moment_extra == DType::bf16) c.state.v_extra = stored(v - c.state.v, DType::bf16);
  if (info.write == WeightWrite::grow) c.state.extra = stored(w - c.state.w, DType::bf16);
  if (info.write == WeightWrite::kahan) c.state.extra = stored(c.state.w - w, DType::bf16);
  if (info.write == WeightWrite::master) c.state.extra = static_cast<float>(w);
  if (info.write == WeightWrite::split) {  // FP32 bits = (upper half of w) + lo, in integers
    const int64_t bits = bits_of(static_cast<float>(w));
    const int64_t hi = (bits + 0x8000) / 0x10000;
    c.state.w = float_of(static_cast<uint32_t>(hi * 0x10000));
    c.state.extra = static_cast<float>(bits - hi * 0x10000);
  }
  return c;
}

AdamWDithers random_dithers(Random& random) {
  return {static_cast<uint16_t>(random.bits()), static_cast<uint16_t>(random.bits()),
          static_cast<uint16_t>(random.bits())};
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
    case WeightWrite::split: {  // within half a step of the FP32 value, and the two halves make it again
      const bool half =
          std::fabs(after.w - fp32) <= 0.5 * step_bf16(std::min(std::fabs(double{after.w}), std::fabs(fp32)));
      const bool whole =
          int64_t{bits_of(after.w)} + static_cast<int64_t>(after.extra) == bits_of(static_cast<float>(fp32));
      return half && whole && is_bf16(after.w) && std::fabs(after.extra) <= 32768;
    }
    case WeightWrite::kahan: {
      const double y = nearest_bf16(nearest_bf16(-d) - before.extra), sum = nearest_bf16(before.w + y);
      return double{after.w} == sum && double{after.extra} == nearest_bf16(nearest_bf16(sum - before.w) - y);
    }
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
    const bool fp32_weight = info.write == WeightWrite::master || info.write == WeightWrite::split;
    const double w = fp32_weight ? full_weight<kStrategy>(c.state) : c.state.w;
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
    AdamWDithers dithers = {0, 0, 0x5555};
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
  check_against_fp64<Strategy::bf16_kahan>();
  check_against_fp64<Strategy::bf16_fp32_states>();
  check_against_fp64<Strategy::split32>();
  check_against_fp64<Strategy::mixed_autocast>();
}

// Catches: an operation left in FP32, one rounded twice, D from unrounded moments, a moment rounded only at the end.
TEST_CASE("math bf16 rounds every operation of the update once") {
  check_literal_program<Strategy::bf16>();
  check_literal_program<Strategy::bf16_sr>();
  check_literal_program<Strategy::collage_light>();
  check_literal_program<Strategy::collage_plus>();
  check_literal_program<Strategy::bf16_kahan>();
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
      return update(c.state, c.gradient, {0, 0, dither}, c.step).state.v;
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
  CHECK(full_weight<Strategy::bf16_kahan>(s) == 1.0 - 0x1.02p-40);
  CHECK(full_weight<Strategy::bf16_fp32_states>(s) == 1.0);
  CHECK(full_weight<Strategy::mixed_autocast>(s) == 1.0);
  CHECK(full_weight<Strategy::split32>({1.0f, 3, 7, 7, 7}) == 1.0 + 3 * 0x1p-23);
  CHECK(full_weight<Strategy::split32>({1.0f, -3, 7, 7, 7}) == 1.0 - 3 * 0x1p-24);  // below 1 a step is half as wide
}

// Catches: a lo that is taken without its sign, a carry lost at a power of two, RN where ties go away from zero, a NaN
// whose payload carries into the sign. Every upper half is met with the lower halves around its edges.
TEST_CASE("split32 keeps every FP32 to the bit, and its upper half is the nearest BF16") {
  using Split = WeightRule<WeightWrite::split>;
  Broken broken;
  for (uint32_t hi = 0; hi < 65536; ++hi) {
    for (const uint32_t lo : {0x0000u, 0x0001u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu, 0x1234u, 0xBEEFu}) {
      const float x = float_of(hi << 16 | lo);
      const StoredWeight s = Split::initial(x);
      if (std::isnan(x)) {
        broken.unless(std::isnan(s.w) && std::isnan(Split::value(s)), hi, lo);
        continue;
      }
      broken.unless(bits_of(Split::value(s)) == bits_of(x), hi, lo);
      broken.unless(is_bf16(s.w) && s.extra == std::nearbyint(s.extra) && s.extra >= -32768 && s.extra <= 32767, hi,
                    lo);
      const bool tie = lo == 0x8000u;
      broken.unless(bits_of(s.w) == (tie ? (hi + 1) << 16 : bits_of(as_bf16(x))), hi, lo);
    }
  }
  REQUIRE_NONE(broken);
}

// The same gradients, 100 steps: split32's FP32 value is mixed's master to the bit; its upper half is the BF16 copy but
// where the master lies exactly between two of them. Catches: decay taken from the upper half, a lo that drifts.
TEST_CASE("split32 is mixed in two halves, bit for bit, over 100 steps") {
  Random random(41);
  int64_t ties = 0;
  Broken broken;
  for (int element = 0; element < 2000; ++element) {
    Case c = random_case(strategy_info(Strategy::mixed), random);
    c.step.learning_rate = static_cast<float>(random.log_uniform(1e-5, 1e-2));
    AdamWState mixed = c.state, split = c.state;
    const StoredWeight halves = WeightRule<WeightWrite::split>::initial(mixed.extra);
    split.w = halves.w;
    split.extra = halves.extra;
    for (int t = 0; t < 100; ++t) {
      const auto gradient = static_cast<float>(random.sign() * random.log_uniform(1e-5, 1e-2));
      mixed = adamw_update<Strategy::mixed, Math::fp32>(mixed, gradient, {}, c.step).state;
      split = adamw_update<Strategy::split32, Math::fp32>(split, gradient, {}, c.step).state;
      const float value = static_cast<float>(full_weight<Strategy::split32>(split));
      broken.unless(bits_of(value) == bits_of(mixed.extra) && split.m == mixed.m && split.v == mixed.v, element, t);
      const bool tie = (bits_of(mixed.extra) & 0xFFFFu) == 0x8000u;
      ties += tie;
      broken.unless(split.w == mixed.w || tie, element, t);
    }
  }
  REQUIRE_NONE(broken);
  REQUIRE(ties > 0);  // 200,000 values, one in 65,536 is a tie: the exception is real
}

// Catches: a table entry of mixed_autocast that is not FP32's, a cast that reached the update.
TEST_CASE("the update of mixed_autocast is that of fp32, bit for bit") {
  Random random(43);
  Broken broken;
  for (int i = 0; i < kCases; ++i) {
    const Case c = random_case(strategy_info(Strategy::fp32), random);
    const AdamWUpdate a = adamw_update<Strategy::fp32, Math::fp32>(c.state, c.gradient, {}, c.step);
    const AdamWUpdate b = adamw_update<Strategy::mixed_autocast, Math::fp32>(c.state, c.gradient, {}, c.step);
    broken.unless(a.state.w == b.state.w && a.state.m == b.state.m && a.state.v == b.state.v, i);
  }
  REQUIRE_NONE(broken);
}

// Catches: moments of split32 that ignore the types asked for.
TEST_CASE("split32 stores each moment as BF16 or FP32 and changes nothing else") {
  Random random(47);
  Broken broken;
  for (int i = 0; i < 2000; ++i) {
    const Case c = random_case(strategy_info(Strategy::split32), random);
    constexpr DType kBf16 = DType::bf16, kFp32 = DType::fp32;
    const auto run = [&](auto update) { return update(c.state, c.gradient, AdamWDithers{}, c.step); };
    const AdamWUpdate full = run(adamw_update<Strategy::split32, Math::fp32>);
    for (const AdamWUpdate& u : {run(adamw_update<Strategy::split32, Math::fp32, kBf16, kFp32>),
                                 run(adamw_update<Strategy::split32, Math::fp32, kFp32, kBf16>),
                                 run(adamw_update<Strategy::split32, Math::fp32, kBf16, kBf16>)}) {
      broken.unless(u.state.w == full.state.w && u.state.extra == full.state.extra && u.intended == full.intended, i);
    }
    const AdamWState both = run(adamw_update<Strategy::split32, Math::fp32, kBf16, kBf16>).state;
    broken.unless(both.m == as_bf16(full.state.m) && both.v == as_bf16(full.state.v), i);
    const AdamWState first = run(adamw_update<Strategy::split32, Math::fp32, kBf16, kFp32>).state;
    broken.unless(first.m == both.m && first.v == full.state.v, i);
  }
  REQUIRE_NONE(broken);
}

// Catches: m rounded with v's dither or to nearest, a dither that leaks into D.
TEST_CASE("a first moment rounded stochastically is exact in the mean and leaves the rest as it was") {
  Random random(53);
  for (int repeat = 0; repeat < 8; ++repeat) {
    Case c = random_case(strategy_info(Strategy::bf16), random);
    const AdamWUpdate nearest = adamw_update<Strategy::bf16, Math::fp32>(c.state, c.gradient, {0, 0x7777, 0}, c.step);
    const float exact_m = adamw_update<Strategy::fp32, Math::fp32>(c.state, c.gradient, {}, c.step).state.m;
    REQUIRE(nearest.state.m == as_bf16(exact_m));
    c.step.first_moment_rounding = Rounding::stochastic;
    double sum = 0;
    Broken broken;
    for (uint32_t r = 0; r < 65536; ++r) {
      const AdamWDithers dithers = {0, static_cast<uint16_t>(r), 0};
      const AdamWUpdate u = adamw_update<Strategy::bf16, Math::fp32>(c.state, c.gradient, dithers, c.step);
      broken.unless(u.state.w == nearest.state.w && u.state.v == nearest.state.v && u.intended == nearest.intended, r);
      sum += u.state.m;
    }
    REQUIRE_NONE(broken);
    REQUIRE(sum == 65536.0 * exact_m);
  }
}

// Catches: an octave counted from the wrong mantissa bit, a sign that enters, zeros counted. Exact at powers of two; in
// between log2 is replaced by its chord, at most 0.086 lower, and cut to 1/256.
TEST_CASE("the size of an update in ulps is its binary logarithm, in steps of 1/256") {
  CHECK(log2_ulps(0x1p-7f, 1.0f) == 0);  // one ulp of 1
  CHECK(log2_ulps(-0x1p-7f, -1.99f) == 0);
  CHECK(log2_ulps(0x1p-8f, 1.0f) == -kOctave);
  CHECK(log2_ulps(8.0f, 0x1p-3f) == 13 * kOctave);
  Random random(59);
  Broken broken;
  for (int i = 0; i < kCases; ++i) {
    const auto d = static_cast<float>(random.sign() * random.log_uniform(1e-9, 1e3)), w = random.bf16(-20, 20);
    const double exact = std::log2(std::fabs(double{d}) / step_bf16(w)), found = double{1} * log2_ulps(d, w) / kOctave;
    broken.unless(has_size(d, w) && found <= exact && found >= exact - 0.087 - 1.0 / kOctave, i, exact, found);
  }
  REQUIRE_NONE(broken);
  CHECK_FALSE(has_size(0, 1));
  CHECK_FALSE(has_size(1, 0));
  CHECK_FALSE(has_size(1e-40f, 1));
}

// Catches: a type changed in one row, a part not counted. Figures: NUMERICS 5.
TEST_CASE("the strategies cost the documented bytes a parameter and have names of their own") {
  const auto bytes = [](Strategy s) { return bytes_per_parameter(strategy_info(s)); };
  CHECK(bytes(Strategy::fp32) == 16);
  CHECK(bytes(Strategy::bf16) == 8);
  CHECK(bytes(Strategy::bf16_sr) == 8);
  CHECK(bytes(Strategy::mixed) == 18);
  CHECK(bytes_per_parameter(strategy_info(Strategy::mixed), DType::bf16, DType::fp32, DType::fp32) == 16);
  CHECK(bytes(Strategy::collage_light) == 10);
  CHECK(bytes(Strategy::collage_plus) == 12);
  CHECK(bytes(Strategy::bf16_kahan) == 10);
  CHECK(bytes(Strategy::bf16_fp32_states) == 12);
  CHECK(bytes(Strategy::split32) == 14);
  CHECK(bytes_per_parameter(strategy_info(Strategy::split32), DType::bf16, DType::bf16, DType::bf16) == 10);
  CHECK(bytes(Strategy::mixed_autocast) == 16);
  std::set<std::string> names;
  for (const StrategyInfo& info : kStrategies) names.insert(info.name);
  CHECK(names == std::set<std::string>{"fp32", "bf16", "bf16_sr", "bf16_kahan", "collage_light", "collage_plus",
                                       "bf16_fp32_states", "split32", "mixed", "mixed_autocast"});
}
