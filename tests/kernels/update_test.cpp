// Initial values, accumulation, the squared norm and the step's decision: bits against a scalar loop, sums against
// FP64.
#include <bit>
#include <cmath>
#include <iterator>  // size
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernels/backend.h"
#include "tests/kernels/flat_layout.h"
#include "tests/kernels/operation_test.h"
#include "tests/kernels/tensors.h"
#include "tests/kernels/test_backend.h"

namespace dither {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

template <class Operation, class Change>
std::string complaint(Operation op, Change change) {
  change(op);
  try {
    op.check();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

Initialise initial(Strategy strategy, View weight, View extra, int64_t count) {
  return {.weight = weight,
          .extra = extra,
          .strategy = strategy,
          .count = count,
          .mean = 0.25,
          .std = 0.02,
          .tensor = 5,
          .seed = 1337};
}

Accumulate accumulation(View sum, ConstView addend, const std::vector<Segment>& segments, const StepScalars& s) {
  return {.sum = sum,
          .addend = addend,
          .segments = segments.data(),
          .segment_count = static_cast<int64_t>(segments.size()),
          .first = false,
          .rounding = Rounding::stochastic,
          .seed = 42,
          .scalars = &s,
          .draw = &s.micro_batch};
}

SquaredNorm norm_of(ConstView gradient, const std::vector<Segment>& segments, ExactSum* groups, StepScalars& s) {
  return {.gradient = gradient,
          .segments = segments.data(),
          .segment_count = static_cast<int64_t>(segments.size()),
          .group_sums = groups,
          .scalars = &s};
}

}  // namespace

// Catches: deviates addressed by thread or part, FP32 arithmetic, a BF16 weight rounded twice, arms of a comparison
// that start from different draws, a rest that is lost or added to the wrong side, a pair that is not normalised.
OPERATION_TEST(initialise, "every strategy starts from the same FP32 draw of normal deviates") {
  const int64_t count = 40'000;  // three parts for threads, the last one ragged
  const auto& info = kStrategies[GENERATE(range(size_t{0}, kStrategies.size()))];
  TestTensor weight(info.weight, count), extra(info.weight_extra, count);
  const View rest = info.weight_extra == DType::none ? View{} : View(extra);
  test_backend(2)->initialise(initial(info.id, weight, rest, count), {});

  const NoiseId id = {1337, 5, 0, RandomStream::initialisation, 0};
  int64_t wrong = 0;
  for (int64_t i = 0; i < count; ++i) {
    const auto draw = static_cast<float>(0.25 + 0.02 * normal_deviate(random_word(id, i)));
    const bool tie = (std::bit_cast<uint32_t>(draw) & 0xFFFFu) == 0x8000u;  // split32 rounds it away from zero
    wrong += weight.get(i) != (info.weight == DType::fp32 ? draw : as_bf16(draw)) && !tie;
    if (info.write == WeightWrite::master) wrong += extra.get(i) != draw;
    if (info.write == WeightWrite::grow || info.write == WeightWrite::kahan) {
      const double lo = (info.write == WeightWrite::grow ? 1 : -1) * extra.get(i);
      wrong += lo != double{pair_of(draw).lo} || bf16_add(as_bf16(draw), static_cast<float>(lo)) != as_bf16(draw);
    }
    if (info.write == WeightWrite::split) {
      const auto hi = std::bit_cast<uint32_t>(static_cast<float>(weight.get(i)));
      wrong += static_cast<int64_t>(hi) + static_cast<int64_t>(extra.get(i)) != std::bit_cast<uint32_t>(draw);
    }
  }
  REQUIRE(wrong == 0);
  REQUIRE(weight.guard_intact());
}

// Catches: a uniform in place of a normal, std taken for the variance, one word used for several elements. Bounds are
// five standard errors: of the mean std / sqrt(n), of the variance std^2 sqrt(2 / n), of a correlation 1 / sqrt(n).
OPERATION_TEST(initialise, "the deviates have their mean and deviation and neighbours are independent") {
  const int64_t n = 100'000;
  TestTensor weight(DType::fp32, n);
  test_backend(2)->initialise(initial(Strategy::fp32, weight, {}, n), {});
  double sum = 0, squares = 0, neighbours = 0, last = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double z = (weight.get(i) - 0.25) / 0.02;
    sum += z;
    squares += z * z;
    neighbours += z * last;
    last = z;
  }
  const double root = std::sqrt(static_cast<double>(n));
  REQUIRE(std::fabs(sum) < 5 * root);
  REQUIRE(std::fabs(squares - static_cast<double>(n)) < 5 * std::sqrt(2.0) * root);
  REQUIRE(std::fabs(neighbours) < 5 * root);
}

OPERATION_TEST(initialise, "std 0 gives a constant, seed and tensor choose the draw, bad input is named") {
  TestTensor weight(DType::bf16, 100), other(DType::bf16, 100);
  Initialise op = initial(Strategy::bf16_sr, weight, {}, 100);
  op.mean = 1;
  op.std = 0;
  const auto backend = test_backend(1);
  backend->initialise(op, {});
  REQUIRE(same_bits(weight, filled_tensor(DType::bf16, 100, 1)));

  backend->initialise(initial(Strategy::bf16_sr, weight, {}, 100), {});
  const bool reseeded = GENERATE(true, false);
  Initialise again = initial(Strategy::bf16_sr, other, {}, 100);
  again.seed += reseeded ? 1 : 0;
  again.tensor += reseeded ? 0 : 1;
  backend->initialise(again, {});
  REQUIRE_FALSE(same_bits(weight, other));

  const Initialise good = initial(Strategy::bf16_sr, weight, {}, 100);
  REQUIRE(complaint(good, [](Initialise& o) { o.std = -1; }) ==
          "initialise: std is -1, needs a finite number of at least 0");
  REQUIRE(complaint(good, [](Initialise& o) { o.mean = kInf; }) == "initialise: mean is inf, needs a finite number");
  REQUIRE(complaint(good, [](Initialise& o) { o.tensor = 1 << 24; }) ==
          "initialise: tensor is 16777216, needs an id below 2^24");
  REQUIRE(complaint(good, [](Initialise& o) { o.first = 8; }) == "initialise: first is 8, needs a multiple of 1024");
  REQUIRE(complaint(good, [](Initialise& o) { o.weight.type = DType::fp32; }) ==
          "initialise: weight is fp32, needs bf16");
  REQUIRE(complaint(good, [](Initialise& o) { o.extra = o.weight; }) ==
          "initialise: extra is bf16, needs none under strategy bf16_sr");
}

// Catches: an index counted within the piece, `first` counted in blocks or words, a block number cut to 32 bits.
OPERATION_TEST(initialise, "pieces of a tensor get the bits that the whole has there") {
  const Strategy strategy = GENERATE(Strategy::mixed, Strategy::split32);  // both have a second component
  const StrategyInfo& info = strategy_info(strategy);
  constexpr int64_t kCount = 5'000, kCuts[] = {0, 1024, 4096, kCount};
  TestTensor whole(info.weight, kCount), whole_extra(info.weight_extra, kCount);
  TestTensor pieces(info.weight, kCount), pieces_extra(info.weight_extra, kCount);
  const auto backend = test_backend(2);
  backend->initialise(initial(strategy, whole, whole_extra, kCount), {});
  for (size_t i = 0; i + 1 < std::size(kCuts); ++i) {
    Initialise op = initial(strategy, pieces.at(kCuts[i]), pieces_extra.at(kCuts[i]), kCuts[i + 1] - kCuts[i]);
    op.first = kCuts[i];
    backend->initialise(op, {});
  }
  REQUIRE(same_bits(pieces, whole));
  REQUIRE(same_bits(pieces_extra, whole_extra));

  TestTensor far(DType::fp32, 100), expected(DType::fp32, 100);
  Initialise op = initial(Strategy::fp32, far, {}, 100);
  op.first = int64_t{1} << 37;
  for (int64_t i = 0; i < 100; ++i) {
    const NoiseId id = {1337, 5, 0, RandomStream::initialisation, 0};
    expected.set(i, 0.25 + 0.02 * normal_deviate(random_word(id, op.first + i)));
  }
  backend->initialise(op, {});
  REQUIRE(same_bits(far, expected));
}

// Catches: an index counted from the segment or the flat array, the micro-batch forgotten in the draw, a dither for RN,
// `first` reading what the sum held (NaN here), writing into the gaps, a sum rounded before it is complete, an addend
// taken for another type, the noise of another purpose.
OPERATION_TEST(accumulate, "every element is rounded once, with the dither of its place in its tensor") {
  const auto type = GENERATE(DType::bf16, DType::fp32), added = GENERATE(DType::fp32, DType::bf16);
  const auto rounding = GENERATE(Rounding::stochastic, Rounding::nearest);
  const auto first = GENERATE(true, false);
  const auto leaves = GENERATE(int64_t{1000}, int64_t{1}, int64_t{7});  // whole tensors, and how shards may cut them
  const auto purpose = leaves == 7 ? RandomStream::gradient_wire : RandomStream::gradient_accumulation;
  StepScalars scalars;
  scalars.step = 9;
  scalars.micro_batch = 3;
  const TestTensor addend = normal_tensor(added, kFlatElements, 1);
  TestTensor sum = first ? TestTensor(type, kFlatElements) : normal_tensor(type, kFlatElements, 2);
  TestTensor expected = sum;
  const NoiseId base = {42, 0, 9, purpose, 3};
  for_each_element(flat_layout(), [&](const Segment& s, int64_t i, int64_t element) {
    const float total = static_cast<float>(addend.get(i)) + (first ? 0.0f : static_cast<float>(expected.get(i)));
    NoiseId id = base;
    id.tensor = s.tensor;
    if (type == DType::fp32) {
      expected.fp32()[i] = total;
    } else if (rounding == Rounding::nearest) {
      expected.bf16()[i] = round_nearest(total);
    } else {
      expected.bf16()[i] = round_stochastic(total, dither_at(id, element));
    }
  });
  const std::vector<Segment> segments = cut_layout(leaves);
  Accumulate op = accumulation(sum, addend, segments, scalars);
  op.first = first;
  op.rounding = rounding;
  op.purpose = purpose;
  test_backend(GENERATE(1, 3))->accumulate(op, {});
  REQUIRE(same_bits(sum, expected));
  REQUIRE(sum.guard_intact());
}

// Catches: contributions added before they meet the sum, another order than by rising index, a rounding at the end
// instead of after each, one draw for all or a draw that counts from 0, a stride in bytes or of whole leaves, `first`
// that replaces the sum by every contribution, the micro-batch taken where another count was named.
OPERATION_TEST(accumulate, "a fold over contributions is as many single ones with the draw counted up") {
  const auto type = GENERATE(DType::bf16, DType::fp32), added = GENERATE(DType::fp32, DType::bf16);
  const auto rounding = GENERATE(Rounding::stochastic, Rounding::nearest);
  const auto first = GENERATE(true, false);
  constexpr int64_t kContributions = 5, kStride = kFlatElements + 8;
  const TestTensor addends = normal_tensor(added, kContributions * kStride, 1);
  TestTensor sum = first ? TestTensor(type, kFlatElements) : normal_tensor(type, kFlatElements, 2);
  TestTensor expected = sum;
  StepScalars scalars;
  scalars.step = 9;
  scalars.micro_batch = 77;
  scalars.round = 11;
  const auto backend = test_backend(3);
  const std::vector<Segment> pieces = cut_layout(7), whole = flat_layout();
  Accumulate op = accumulation(sum, addends, pieces, scalars);
  op.first = first;
  op.rounding = rounding;
  op.draw = &scalars.round;
  op.contributions = kContributions;
  op.stride = kStride;
  backend->accumulate(op, {});

  for (int64_t c = 0; c < kContributions; ++c, ++scalars.round) {
    Accumulate single = accumulation(expected, ConstView(addends).at(c * kStride), whole, scalars);
    single.first = first && c == 0;
    single.rounding = rounding;
    single.draw = &scalars.round;
    backend->accumulate(single, {});
  }
  REQUIRE(same_bits(sum, expected));
  REQUIRE(sum.guard_intact());
}

// Catches: a draw shared by micro-batches or steps: the errors of 16 additions would all have one sign.
OPERATION_TEST(accumulate, "the mean over micro-batches and steps is the exact sum") {
  const auto backend = test_backend(2);
  const TestTensor addend = filled_tensor(DType::fp32, kFlatElements, 1.0 + 0.3 * 0x1p-7);
  const double p = (static_cast<double>(addend.fp32()[0]) - 1.0) * 0x1p7;  // the share that must go up
  const std::vector<Segment> segments = {flat_layout().back()};            // 2,500 elements
  StepScalars scalars;
  double up = 0, draws = 0, pairs = 0;
  std::vector<double> last(2'500, 0.0);
  for (scalars.step = 1; scalars.step <= 4; ++scalars.step) {
    for (scalars.micro_batch = 0; scalars.micro_batch < 8; ++scalars.micro_batch) {
      TestTensor sum(DType::bf16, kFlatElements);
      Accumulate op = accumulation(sum, addend, segments, scalars);
      op.first = true;
      backend->accumulate(op, {});
      for (size_t i = 0; i < last.size(); ++i) {
        const double rose = sum.get(segments[0].offset + static_cast<int64_t>(i)) > 1.0 ? 1 : 0;
        up += rose;
        pairs += (rose - p) * (last[i] - p);
        last[i] = rose;
        ++draws;
      }
    }
  }
  REQUIRE(std::fabs(up - p * draws) < 5 * std::sqrt(p * (1 - p) * draws));
  REQUIRE(std::fabs(pairs) < 5 * p * (1 - p) * std::sqrt(draws));  // successive draws of one element are independent
}

// Catches: a walk over the list that loses its place behind the first hundreds of tensors, a tensor added twice or
// never.
OPERATION_TEST(accumulate, "a thousand tensors of every small size are added once each") {
  std::vector<Segment> segments;
  int64_t end = 0;
  for (uint32_t i = 0; i < 1000; ++i) {
    const int64_t count = i % 7 == 3 ? 0 : 1 + i * 37 % 2500;
    segments.push_back({.offset = end, .count = count, .first = 0, .tensor = i, .group = 0, .decay = false});
    end += (count + kLeafElements - 1) / kLeafElements * kLeafElements;
  }
  TestTensor addend(DType::fp32, end);
  for (int64_t i = 0; i < end; ++i) addend.set(i, static_cast<double>(i % 1013));
  const StepScalars scalars;
  for (int repeat = 0; repeat < 4; ++repeat) {  // a backend that runs threads in several orders takes another each time
    TestTensor sum = filled_tensor(DType::fp32, end, 0.5);
    test_backend(2)->accumulate(accumulation(sum, addend, segments, scalars), {});
    int64_t wrong = 0;
    for (size_t i = 0; i < segments.size(); ++i) {
      const int64_t begin = segments[i].offset, behind = i + 1 < segments.size() ? segments[i + 1].offset : end;
      for (int64_t at = begin; at < behind; ++at) {
        const double added = at - begin < segments[i].count ? static_cast<double>(at % 1013) : 0;
        wrong += sum.get(at) != 0.5 + added;
      }
    }
    REQUIRE(wrong == 0);
  }
}

OPERATION_TEST(accumulate, "what is not allowed is named") {
  TestTensor sum(DType::bf16, kFlatElements), addend(DType::fp32, kFlatElements);
  const StepScalars scalars;
  const std::vector<Segment> segments = flat_layout();
  const Accumulate good = accumulation(sum, addend, segments, scalars);
  const auto unchanged = [](Accumulate&) {};
  REQUIRE(complaint(good, unchanged).empty());
  REQUIRE(complaint(good, [](Accumulate& o) { o.sum = {}; }) ==
          "accumulate: sum is absent, needs a BF16 or FP32 tensor");
  REQUIRE(complaint(good, [](Accumulate& o) { o.addend.type = DType::int64; }) ==
          "accumulate: addend is int64, needs a BF16 or FP32 tensor");
  REQUIRE(complaint(good, [](Accumulate& o) { o.contributions = 0; }) ==
          "accumulate: contributions is 0, needs at least 1");
  for (const int64_t stride : {-8, 0, 12}) {
    REQUIRE(complaint(good, [&](Accumulate& o) { o.contributions = 2, o.stride = stride; }) ==
            "accumulate: stride is " + std::to_string(stride) +
                ", needs a multiple of 8 above 0 for several contributions");
  }
  REQUIRE(complaint(good, [](Accumulate& o) { o.segment_count = -1; }) ==
          "accumulate: segment_count is -1, needs 0 or more");
  const auto with = [&](auto change) {
    std::vector<Segment> changed = segments;
    change(changed[1]);
    try {
      make_cpu_backend(1)->accumulate(accumulation(sum, addend, changed, scalars), {});
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  REQUIRE(with([](Segment& s) { s.offset += 8; }) ==
          "accumulate: segments[1].offset is 40968, needs a multiple of 1024");
  REQUIRE(with([](Segment& s) { s.first = 512; }) == "accumulate: segments[1].first is 512, needs a multiple of 1024");
  REQUIRE(with([](Segment& s) { s.count = -3; }) == "accumulate: segments[1].count is -3, needs 0 or more");
  REQUIRE(with([](Segment& s) { s.group = -1; }) == "accumulate: segments[1].group is -1, needs 0 or more");
  REQUIRE(with([](Segment& s) { s.tensor = 1u << 24; }) ==
          "accumulate: segments[1].tensor is 16777216, needs an id below 2^24");
}

// Catches: FP32 sums, gaps that count (NaN here), a group that gets another's sum, sums that start from zero. Squares
// of integers are exact in FP64, so the tolerance is zero.
OPERATION_TEST(squared_norm, "sums of squares are exact where FP64 is, by group and in all") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const TestTensor values = integer_tensor(type, kFlatElements, 3, 100);
  TestTensor gradient(type, kFlatElements);
  double expected[kGroups] = {}, all = 0;
  for_each_element(flat_layout(), [&](const Segment& s, int64_t i, int64_t) {
    gradient.set(i, values.get(i));
    expected[s.group] += values.get(i) * values.get(i);
    all += values.get(i) * values.get(i);
  });
  StepScalars scalars;
  scalars.squared_norm.add(0.25);
  ExactSum groups[kGroups];
  const std::vector<Segment> segments = flat_layout();
  test_backend(2)->squared_norm(norm_of(gradient, segments, groups, scalars), {});
  REQUIRE(scalars.squared_norm.value() == all + 0.25);
  for (int g = 0; g < kGroups; ++g) REQUIRE(groups[g].value() == expected[g]);
}

// Catches: leaves that follow segments or threads instead of the tensor, a merge that loses a thread's part.
OPERATION_TEST(squared_norm, "no cut into shards and no thread count changes a bit") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const TestTensor gradient = normal_tensor(type, kFlatElements, 4);
  const auto sum_of = [&](const std::vector<Segment>& segments, int threads) {
    StepScalars scalars;
    test_backend(threads)->squared_norm(norm_of(gradient, segments, nullptr, scalars), {});
    return scalars.squared_norm;
  };
  const ExactSum whole = sum_of(flat_layout(), 1);
  double reference = 0;
  for_each_element(flat_layout(),
                   [&](const Segment&, int64_t i, int64_t) { reference += gradient.get(i) * gradient.get(i); });
  REQUIRE(std::fabs(whole.value() - reference) <= 0x1p-52 * 45'000 * reference);  // the reference's own additions
  for (const int64_t leaves : {1, 2, 5}) REQUIRE(sum_of(cut_layout(leaves), 4) == whole);
}

OPERATION_TEST(squared_norm, "a NaN, an Inf or a square beyond 2^96 makes the norm non-finite") {
  const double bad = GENERATE(static_cast<double>(NAN), -kInf, 0x1p60);
  TestTensor gradient = filled_tensor(DType::bf16, kFlatElements, 1);
  gradient.set(39'999, bad);
  StepScalars scalars;
  const std::vector<Segment> segments = flat_layout();
  SquaredNorm op = norm_of(gradient, segments, nullptr, scalars);
  test_backend(2)->squared_norm(op, {});
  REQUIRE(std::isnan(scalars.squared_norm.value()));
  REQUIRE(complaint(op, [](SquaredNorm& o) { o.gradient = {}; }) ==
          "squared_norm: gradient is absent, needs a BF16 or FP32 tensor");
}

// Catches: a clip that grows small gradients, a limit compared with the clipped norm, NaN that passes a comparison, a
// clip factor of NaN, a norm that forgets its root, 1/N applied twice.
OPERATION_TEST(decide_step, "loss, norm, clip factor and the decision follow from the sums") {
  struct Row {
    double loss_sum, squares, largest, loss_limit, norm_limit;
    double loss, norm;
    float clip;
    int apply;
  };
  const Row row = GENERATE(Row{12, 16, 0, kInf, kInf, 3, 4, 1.0f, 1},        // no clipping
                           Row{12, 16, 8, kInf, kInf, 3, 4, 1.0f, 1},        // below the clip
                           Row{12, 16, 4, kInf, kInf, 3, 4, 1.0f, 1},        // at the clip
                           Row{12, 16, 1, kInf, kInf, 3, 4, 0.25f, 1},       // above it
                           Row{12, 16, 1, 3, 4, 3, 4, 0.25f, 1},             // at both limits
                           Row{12, 16, 1, 2.9, kInf, 3, 4, 0.25f, 0},        // loss above its limit
                           Row{12, 16, 1, kInf, 3.9, 3, 4, 0.25f, 0},        // norm above its limit
                           Row{12, 0, 1, kInf, kInf, 3, 0, 1.0f, 1},         // no gradient at all
                           Row{-kInf, 16, 1, kInf, kInf, NAN, 4, 0.25f, 0},  // loss not finite
                           Row{12, NAN, 1, kInf, kInf, 3, NAN, 1.0f, 0},     // gradient not finite
                           Row{12, 0x1p-80, 1, kInf, kInf, 3, 0x1p-40, 1, 1});
  StepScalars s;
  s.set_targets(4);
  s.largest_norm = row.largest;
  s.loss_limit = row.loss_limit;
  s.norm_limit = row.norm_limit;
  s.loss_sum.add(row.loss_sum);
  s.squared_norm.add(row.squares);
  s.apply = 7;
  test_backend(1)->decide_step({.scalars = &s}, {});
  const auto same = [](double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); };
  REQUIRE(same(s.loss, row.loss));
  REQUIRE(same(s.gradient_norm, row.norm));
  REQUIRE(s.clip_factor == row.clip);
  REQUIRE(s.apply == row.apply);

  s.targets = 0;  // no limit stops an infinite loss but this
  s.loss_limit = kInf;
  test_backend(1)->decide_step({.scalars = &s}, {});
  REQUIRE(s.apply == 0);
}

// Catches: a mean by a reciprocal that was rounded to FP32 (6e-8 off), or to FP64.
OPERATION_TEST(decide_step, "the logged loss is the sum of losses over the number of targets, rounded once") {
  const int64_t targets = GENERATE(3, 49, 4097, 524287);
  StepScalars s;
  s.set_targets(targets);
  s.loss_limit = s.norm_limit = kInf;
  s.loss_sum.add(static_cast<double>(targets) * 2.75);  // exact: few bits
  test_backend(1)->decide_step({.scalars = &s}, {});
  REQUIRE(s.loss == 2.75);
  REQUIRE(s.loss_scale == static_cast<float>(1.0 / static_cast<double>(targets)));
}

}  // namespace dither
