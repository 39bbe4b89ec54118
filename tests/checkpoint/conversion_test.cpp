// From one strategy's state to another's: every pair against a reference in FP64 arithmetic, and the table of
// docs/checkpoint-format.md against what the conversions do.
#include "src/checkpoint/conversion.h"

#include <cmath>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/checkpoint/conversion_reference.h"
#include "tests/numerics/reference.h"

namespace dither {

namespace {

using namespace conversion_reference;
using reference::float_of;
using reference::Random;

constexpr const char* kPage = DITHER_SOURCE_DIR "/docs/checkpoint-format.md";

/// Where BF16 has numbers: beyond, pairs are infinite minus infinite.
constexpr uint32_t kFirstAboveBf16 = 0x7F7F8000u;

/// FP32 numbers of every kind: all exponents, weights' own range, both kinds of subnormals, ties of BF16 at even and
/// odd, powers of two and their neighbours, zeros.
std::vector<float> all_kinds(uint64_t seed, size_t random_values) {
  std::vector<float> values = {0.0f,
                               -0.0f,
                               float_of(1),
                               float_of(0x80000001u),
                               float_of(0x007FFFFFu),
                               float_of(0x00800000u),
                               float_of(kFirstAboveBf16 - 1),
                               float_of(0x80000000u | (kFirstAboveBf16 - 1))};
  Random random(seed);
  for (size_t i = 0; i < random_values; ++i) {
    const uint32_t sign = random.below(2) == 0 ? 0 : 0x80000000u;
    const uint32_t any = static_cast<uint32_t>(random.below(kFirstAboveBf16));
    values.push_back(float_of(sign | any));
    values.push_back(static_cast<float>(0.02 * random.sign() * random.uniform()));
    values.push_back(float_of(sign | static_cast<uint32_t>(random.below(0x00800000))));
    const uint32_t tie = (any & 0x7FFF0000u) | 0x8000u;  // BF16 of even and of odd last bit
    if (tie < kFirstAboveBf16) values.push_back(float_of(sign | tie));
    values.push_back(
        float_of(sign | ((any & 0x7F800000u) + static_cast<uint32_t>(random.below(3)) - (any > 0x00800000u))));
  }
  return values;
}

/// Two components that updates have moved apart, by up to 40 binary places.
void set_wide_pair(Random& random, Tensor& upper, Tensor& lower, size_t i) {
  const double value = random.bf16(-60, 20);
  upper.set(i, value);
  lower.set(i, std::ldexp(random.bf16(-40, 1), std::ilogb(value)));
}

/// States that a run may leave: as drawn, and where there are two components also wide pairs.
State state_of(const StateFormat& format, uint64_t seed, size_t random_values) {
  const std::vector<float> weights = all_kinds(seed, random_values);
  const size_t n = weights.size();
  State state(format, n);
  Random random(seed + 1);
  for (size_t i = 0; i < n; ++i) {
    const double second = i % 3 == 0 ? std::fabs(weights[n - 1 - i]) : random.log_uniform(1e-12, 1e-3);
    set_element(state, i, weights[i], weights[(i * 7) % n], static_cast<float>(second));
    if (i % 4 == 0 && format.weight_extra() == DType::bf16) set_wide_pair(random, state.weight, state.extra, i);
    if (i % 4 == 1 && format.second_moment_extra() == DType::bf16) {
      set_wide_pair(random, state.second, state.second_extra, i);
    }
  }
  return state;
}

std::string pair_name(const StateFormat& from, const StateFormat& to) {
  const auto name = [](const StateFormat& f) {
    return std::string(strategy_info(f.strategy).name) + " (" + name_of(f.first_moment) + ", " +
           name_of(f.second_moment) + ")";
  };
  return name(from) + " -> " + name(to);
}

/// One column of the page's table: what `from` -> `to` keeps of these elements, and whether its bits come back.
struct Cell {
  bool weight = true, first = true, second = true, back = true;
  std::string text() const {
    const std::string lost = std::string(weight ? "" : "w") + (first ? "" : "m") + (second ? "" : "v");
    return lost.empty() ? "=" : lost;
  }
};

Cell measured(const State& from, const StateFormat& to) {
  const State there = converted(from, to);
  Cell cell;
  for (size_t i = 0; i < from.elements; ++i) {
    const Element before = element_of(from, i), after = element_of(there, i);
    cell.weight = cell.weight && before.weight == after.weight;
    cell.first = cell.first && before.first == after.first;
    cell.second = cell.second && before.second == after.second;
  }
  cell.back = converted(there, from.format).same_bits(from);
  return cell;
}

std::string page() {
  std::ifstream file(kPage);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

// Catches: c added instead of subtracted, mixed's weight taken instead of its master, lo as an unsigned number, a
// moment truncated or rounded by way of another type, dv forgotten or its sign lost, -0 + 0, an element beyond `count`.
TEST_CASE("every pair of formats converts as plain arithmetic in FP64 says") {
  for (const StateFormat& from : all_formats()) {
    const State source = state_of(from, 11, 400);
    for (const StateFormat& to : all_formats()) {
      INFO(pair_name(from, to));
      const State found = converted(source, to), wanted = from == to ? source : expected(source, to);
      REQUIRE(found.weight == wanted.weight);
      REQUIRE(found.extra == wanted.extra);
      REQUIRE(found.first == wanted.first);
      REQUIRE(found.second == wanted.second);
      REQUIRE(found.second_extra == wanted.second_extra);
      REQUIRE(found.guards_intact());
    }
  }
}

// Catches: a table that claims what the program does not do, in either direction; a "=" whose way back is another.
TEST_CASE("the page's table says what each pair of strategies keeps, and what it keeps comes back to the bit") {
  const std::string text = page();
  for (const StrategyInfo& from : kStrategies) {
    const State source = state_of(format_of(from.id), 12, 100);
    std::string row = std::string("| `") + from.name + "` |";
    for (const StrategyInfo& to : kStrategies) {
      const Cell cell = measured(source, format_of(to.id));
      INFO(pair_name(format_of(from.id), format_of(to.id)));
      REQUIRE((cell.text() != "=" || cell.back));
      row += " " + cell.text() + " |";
    }
    INFO("this row is not in the page: " << row);
    REQUIRE(text.find(row + "\n") != std::string::npos);
  }
}

// Catches: a way between FP32 values that passes through BF16, an int16 half with the wrong sign at ties and -0.
TEST_CASE("mixed to split32 to fp32 to mixed_autocast to mixed gives the same bits") {
  const State start = state_of(format_of(Strategy::mixed), 13, 2000);
  State state = start;
  for (const Strategy next : {Strategy::split32, Strategy::fp32, Strategy::mixed_autocast, Strategy::mixed}) {
    state = converted(state, format_of(next));
    REQUIRE(state.format == format_of(next));
  }
  REQUIRE(state.same_bits(start));
  REQUIRE(!state.same_bits(state_of(format_of(Strategy::mixed), 14, 2000)));  // the comparison can fail
}

// Catches: a BF16 weight or moment that widening changes, a subnormal flushed to zero.
TEST_CASE("every BF16 number but NaN goes from bf16_sr to any other strategy and back") {
  std::vector<uint16_t> numbers;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    if ((bits & 0x7FFFu) < 0x7F80u) numbers.push_back(static_cast<uint16_t>(bits));
  }
  State start(format_of(Strategy::bf16_sr), numbers.size());
  for (size_t i = 0; i < numbers.size(); ++i) {
    start.weight.write(i, numbers[i]);
    start.first.write(i, static_cast<uint16_t>(numbers[i] ^ 0x8000u));
    start.second.write(i, numbers[i]);
  }
  for (const StrategyInfo& info : kStrategies) {
    INFO(info.name);
    REQUIRE(converted(converted(start, format_of(info.id)), start.format).same_bits(start));
  }
}

// Catches: w + c, w alone, c rounded away before the subtraction. The bound: one rounding to FP32 is at most half a
// step; the reference's w - c is exact, both having 8 bits at most 41 places apart.
TEST_CASE("bf16_kahan to mixed keeps w - c to within one rounding to FP32") {
  const State from = state_of(format_of(Strategy::bf16_kahan), 15, 2000);
  const State to = converted(from, format_of(Strategy::mixed));
  reference::Broken broken;
  int64_t with_compensation = 0;
  for (size_t i = 0; i < from.elements; ++i) {
    const double whole = from.weight.get(i) - from.extra.get(i), master = to.extra.get(i);
    broken.unless(std::fabs(master - whole) <= 0.5 * step_fp32(whole), whole, master);
    broken.unless(to.weight.get(i) == reference::nearest_bf16(master), whole, to.weight.get(i));
    with_compensation += whole != from.weight.get(i) ? 1 : 0;
  }
  REQUIRE_NONE(broken);
  REQUIRE(with_compensation > 1000);
}

// Catches: only the upper component stored, a lower one truncated. w is off by at most 2^(e-8) for 2^e <= |x|, and the
// lower component by half a step of a number below that: 2^(e-17). Numbers whose lower component is subnormal are left
// out.
TEST_CASE("an FP32 weight becomes a pair of BF16 to within 2^-17 of its size, or 2^-16 where the pair is near a tie") {
  const State from = state_of(format_of(Strategy::fp32), 16, 2000);
  for (const Strategy strategy : {Strategy::bf16_kahan, Strategy::collage_light, Strategy::collage_plus}) {
    const State to = converted(from, format_of(strategy));
    reference::Broken broken;
    for (size_t i = 0; i < from.elements; ++i) {
      const double x = from.weight.get(i);
      if (std::fabs(x) < 0x1p-100) continue;
      const double w = to.weight.get(i), rest = reference::nearest_bf16(x - w);
      const bool tie = reference::nearest_bf16(w + rest) != w;
      broken.unless(std::fabs(element_of(to, i).weight - x) <= (tie ? 0x1p-16 : 0x1p-17) * std::fabs(x), x);
      broken.unless(reference::nearest_bf16(element_of(to, i).weight) == w, x, w);
      broken.unless(to.weight.get(i) == reference::nearest_bf16(x), x, to.weight.get(i));
    }
    REQUIRE_NONE(broken);
  }
}

// Catches: equal formats taken through the conversion, which would quieten NaN, lose its payload and write mixed's
// weight anew.
TEST_CASE("between equal formats all bits are copied, whatever they are") {
  for (const StateFormat& format : all_formats()) {
    constexpr size_t kElements = 3000;
    State state(format, kElements);
    Random random(17);
    for (Tensor* tensor : {&state.weight, &state.extra, &state.first, &state.second, &state.second_extra}) {
      const DType type = tensor->view().type;
      for (size_t i = 0; type != DType::none && i < kElements; ++i) {
        if (size_of(type) == 4) tensor->write(i, static_cast<uint32_t>(random.bits()));
        if (size_of(type) == 2) tensor->write(i, static_cast<uint16_t>(random.bits()));
      }
    }
    INFO(strategy_info(format.strategy).name);
    REQUIRE(converted(state, format).same_bits(state));
  }
}

// Catches: a number beyond BF16 that becomes the largest finite one, a NaN that becomes a number on its way through
// split32's halves.
TEST_CASE("what BF16 cannot hold becomes infinite there, and NaN stays NaN everywhere") {
  const float huge = float_of(kFirstAboveBf16), nan = float_of(0x7FFFFFFFu);
  for (const Strategy strategy : {Strategy::fp32, Strategy::mixed, Strategy::split32, Strategy::mixed_autocast}) {
    State from(format_of(strategy), 3);
    set_element(from, 0, huge, huge, 0);
    set_element(from, 1, -huge, -huge, 0);
    set_element(from, 2, 1, nan, nan);
    if (strategy == Strategy::fp32 || strategy == Strategy::mixed_autocast) from.weight.write(2, nan);
    if (strategy == Strategy::mixed) from.extra.write(2, nan);
    if (strategy == Strategy::split32) from.weight.write(2, uint16_t{0x7FC0});
    for (const StrategyInfo& info : kStrategies) {
      if (info.id == strategy) continue;  // copies bits, also those of a weight that contradicts its master
      INFO(pair_name(from.format, format_of(info.id)));
      const State to = converted(from, format_of(info.id));
      const Kind kind = kind_of(info.id);
      if (kind == Kind::bf16) REQUIRE((to.weight.get(0) == INFINITY && to.weight.get(1) == -INFINITY));
      if (kind == Kind::split || kind == Kind::fp32 || kind == Kind::master) {
        REQUIRE((element_of(to, 0).weight == huge && element_of(to, 1).weight == -huge));
      }
      if (info.first_moment == DType::bf16) REQUIRE((to.first.get(0) == INFINITY && to.first.get(1) == -INFINITY));
      REQUIRE(std::isnan(to.weight.get(2)));
      REQUIRE((std::isnan(to.first.get(2)) && std::isnan(to.second.get(2))));
    }
  }
}

// Catches: blocks that overlap, a last block of another size left out, a count of zero that writes.
TEST_CASE("a conversion in pieces gives the bits of the whole") {
  const StateFormat to = format_of(Strategy::collage_plus);
  State from = state_of(format_of(Strategy::mixed), 18, 600);
  const State whole = converted(from, to);
  REQUIRE(from.elements > 2500);  // several blocks
  State pieces(to, from.elements);
  const auto moved = [](const StateElements& e, int64_t begin) {
    const auto at = [begin](View view) { return view ? view.at(begin) : View(); };
    return StateElements{at(e.weight), at(e.weight_extra), at(e.first_moment), at(e.second_moment),
                         at(e.second_moment_extra)};
  };
  const int64_t end = static_cast<int64_t>(from.elements);
  for (const auto& [first, last] :
       {std::pair<int64_t, int64_t>{1024, 2047}, {2047, end}, {0, 1023}, {1023, 1024}, {5, 5}}) {
    convert_state(from.format, moved(from.views(), first), to, moved(pieces.views(), first), last - first);
  }
  REQUIRE(pieces.same_bits(whole));
}

}  // namespace dither
