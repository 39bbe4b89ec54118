// Rotary positions and QK-norm on the host execution against the CPU. All but the mean over a head is added in the
// CPU's order: bit for bit wherever that mean is exact or absent, and within a bound that counts its roundings
// elsewhere.
#include <cmath>
#include <vector>

#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/cuda/kernels.h"
#include "tests/catch.h"
#include "tests/cuda_host/execution.h"
#include "tests/kernels/tensors.h"

namespace dither {
namespace {

constexpr double kU = 0x1p-24;

struct Shape {
  int64_t N, T;
  int H, Hkv, D;
  int64_t row() const { return int64_t{H + 2 * Hkv} * D; }
};

/// Every head size; one block of tokens, a part of one, several; heads that no round of the block divides, several
/// rounds a token (40 heads of 8 lanes).
constexpr Shape kShapes[] = {{1, 1, 1, 1, 32},  {33, 11, 3, 3, 32}, {6, 2, 2, 1, 48},    {65, 65, 4, 1, 64},
                             {10, 5, 3, 3, 80}, {33, 3, 2, 2, 96},  {9, 3, 20, 10, 112}, {66, 22, 5, 1, 128}};

enum class Table { absent, quarter_turns, real };

TestTensor angles(const Shape& s, Table table) {
  TestTensor cos_sin(DType::fp32, s.T * s.D);
  for (int64_t t = 0; t < s.T; ++t) {
    for (int i = 0; i < s.D / 2; ++i) {
      const double angle = static_cast<double>(t) * std::pow(10000.0, -2.0 * i / s.D);
      const int64_t quarter = (t + i) % 4;
      const bool real = table == Table::real;
      cos_sin.set(t * s.D + 2 * i, real ? std::cos(angle) : quarter % 2 == 0 ? 1.0 - static_cast<double>(quarter) : 0);
      cos_sin.set(t * s.D + 2 * i + 1, real               ? std::sin(angle)
                                       : quarter % 2 == 1 ? 2.0 - static_cast<double>(quarter)
                                                          : 0);
    }
  }
  return cos_sin;
}

/// The inputs of both directions.
struct Inputs {
  Shape s;
  Table table;
  bool norm;
  TestTensor qkv, d_out, rstd, cos_sin, query_gain, key_gain;

  /// Normal values, gains of type `gain` around 1.
  Inputs(const Shape& shape, DType type, DType gain, Table turns, bool with_norm)
      : s(shape),
        table(turns),
        norm(with_norm),
        qkv(normal_tensor(type, s.N * s.row(), 1)),
        d_out(normal_tensor(type, s.N * s.row(), 2)),
        rstd(normal_tensor(DType::fp32, s.N * (s.H + s.Hkv), 3, 0.1, 1)),
        cos_sin(angles(s, turns)),
        query_gain(normal_tensor(gain, s.D, 4, 0.3, 1)),
        key_gain(normal_tensor(gain, s.D, 5, 0.3, 1)) {}

  const float* table_or_none() { return table == Table::absent ? nullptr : cos_sin.fp32(); }
  ConstView gain_or_none(const TestTensor& gain) const { return norm ? ConstView(gain) : ConstView(); }
};

struct Forward {
  TestTensor out, rstd;
  bool operator==(const Forward& other) const { return same_bits(out, other.out) && same_bits(rstd, other.rstd); }
};

/// `backend` null: the kernels on the host.
Forward forward(Inputs& in, Backend* backend, bool in_place = false) {
  const Shape& s = in.s;
  Forward f{in_place ? in.qkv : TestTensor(in.qkv.type(), in.qkv.elements()),
            TestTensor(DType::fp32, in.rstd.elements())};
  const RotaryForward op{.out = f.out,
                         .rstd = in.norm ? f.rstd.fp32() : nullptr,
                         .qkv = in_place ? ConstView(f.out) : ConstView(in.qkv),
                         .cos_sin = in.table_or_none(),
                         .query_gain = in.gain_or_none(in.query_gain),
                         .key_gain = in.gain_or_none(in.key_gain),
                         .N = s.N,
                         .T = s.T,
                         .H = s.H,
                         .Hkv = s.Hkv,
                         .D = s.D,
                         .epsilon = 1e-5f};
  backend != nullptr ? backend->rotary_forward(op, {}) : cuda::rotary_forward(op, {});
  REQUIRE(f.out.guard_intact());
  REQUIRE(f.rstd.guard_intact());
  return f;
}

struct Backward {
  TestTensor d_qkv, d_query_gain, d_key_gain;
  bool operator==(const Backward& other) const {
    return same_bits(d_qkv, other.d_qkv) && same_bits(d_query_gain, other.d_query_gain) &&
           same_bits(d_key_gain, other.d_key_gain);
  }
};

Backward backward(Inputs& in, DType gain, Backend* backend, bool in_place = false) {
  const Shape& s = in.s;
  Backward b{in_place ? in.d_out : TestTensor(in.qkv.type(), in.qkv.elements()), TestTensor(gain, s.D),
             TestTensor(gain, s.D)};
  RotaryBackward op{.d_qkv = b.d_qkv,
                    .d_query_gain = in.norm ? View(b.d_query_gain) : View(),
                    .d_key_gain = in.norm ? View(b.d_key_gain) : View(),
                    .d_out = in_place ? ConstView(b.d_qkv) : ConstView(in.d_out),
                    .qkv = in.norm ? ConstView(in.qkv) : ConstView(),
                    .rstd = in.norm ? in.rstd.fp32() : nullptr,
                    .cos_sin = in.table_or_none(),
                    .query_gain = in.gain_or_none(in.query_gain),
                    .key_gain = in.gain_or_none(in.key_gain),
                    .N = s.N,
                    .T = s.T,
                    .H = s.H,
                    .Hkv = s.Hkv,
                    .D = s.D,
                    .workspace = nullptr};
  TestTensor workspace(DType::fp32, op.workspace_bytes() / 4);
  op.workspace = in.norm ? workspace.fp32() : nullptr;
  backend != nullptr ? backend->rotary_backward(op, {}) : cuda::rotary_backward(op, {});
  REQUIRE(b.d_qkv.guard_intact());
  REQUIRE(b.d_query_gain.guard_intact());
  REQUIRE(b.d_key_gain.guard_intact());
  REQUIRE(workspace.guard_intact());
  return b;
}

bool equal_gains(const Backward& a, const Backward& b) {
  return same_bits(a.d_query_gain, b.d_query_gain) && same_bits(a.d_key_gain, b.d_key_gain);
}

}  // namespace

// Catches: rotation by neighbours, the other direction, positions that run on over sequences, key heads left unrotated,
// value heads rotated or forgotten, lanes behind the end of a head (D = 48, 80, 96, 112) that write, halves written
// before both were read, products rounded to BF16.
TEST_CASE("rotary without QK-norm gives the CPU's bits, apart and in place") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const auto table = GENERATE(Table::absent, Table::real);
  const auto cpu = make_cpu_backend(2);
  for (const Shape& s : kShapes) {
    Inputs in(s, type, DType::bf16, table, false);
    const Forward f = forward(in, cpu.get());
    const Backward b = backward(in, DType::bf16, cpu.get());
    CAPTURE(s.N, s.D);
    for (const cuda_host::Order order : cuda_host::kOrders) {
      cuda_host::set_order(order);
      for (const bool in_place : {false, true}) {
        REQUIRE(forward(in, nullptr, in_place) == f);
        REQUIRE(backward(in, DType::bf16, nullptr, in_place) == b);
      }
    }
  }
}

// Catches: a mean over half a head or over idle lanes' poison, the gains of queries and keys swapped, a head rounded
// before its rotation, rstd of another head. Integers up to 8: the squares add up exactly in any order, and all else is
// elementwise, so real gains and angles give the CPU's bits.
TEST_CASE("rotary_forward with QK-norm gives the CPU's bits where the sum of squares is exact") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const auto gain = GENERATE(DType::bf16, DType::fp32);
  const auto table = GENERATE(Table::absent, Table::real);
  const auto cpu = make_cpu_backend(2);
  for (const Shape& s : kShapes) {
    Inputs in(s, type, gain, table, true);
    in.qkv = integer_tensor(type, s.N * s.row(), 6, 8);
    const Forward expected = forward(in, cpu.get());
    CAPTURE(s.N, s.D);
    for (const cuda_host::Order order : cuda_host::kOrders) {
      cuda_host::set_order(order);
      REQUIRE(forward(in, nullptr) == expected);
    }
  }
}

// Catches: the norm's Jacobian without its projection or its gain, gain sums of queries and keys mixed, a round of
// heads or a block of tokens short, terms added before they were written or written over before they were added (a
// missing barrier), the table turned forward. x, d_out and gains are small integers, the turns quarters, rstd powers of
// two: every term of mean(dz * z) is exact, so all bits are the CPU's.
TEST_CASE("rotary_backward with QK-norm gives the CPU's bits where the mean is exact") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const auto gain = GENERATE(DType::bf16, DType::fp32);
  const auto table = GENERATE(Table::absent, Table::quarter_turns);
  const auto cpu = make_cpu_backend(2);
  for (const Shape& s : kShapes) {
    Inputs in(s, type, gain, table, true);
    in.qkv = integer_tensor(type, s.N * s.row(), 6, 8);
    in.d_out = integer_tensor(type, s.N * s.row(), 7, 4);
    in.query_gain = integer_tensor(gain, s.D, 8, 3);
    in.key_gain = integer_tensor(gain, s.D, 9, 3);
    for (int64_t i = 0; i < in.rstd.elements(); ++i) in.rstd.set(i, std::ldexp(1.0, -static_cast<int>(i % 3)));
    const DType sums = gain == DType::bf16 ? DType::fp32 : DType::bf16;
    const Backward expected = backward(in, sums, cpu.get());
    CAPTURE(s.N, s.D);
    for (const cuda_host::Order order : cuda_host::kOrders) {
      cuda_host::set_order(order);
      REQUIRE(backward(in, sums, nullptr) == expected);
    }
    REQUIRE(backward(in, sums, nullptr, true) == expected);  // in place, in the last order
  }
}

// Catches: what integers hide: another formula for rstd, gain sums in another order, results that depend on the order
// of threads.
//
// rstd: a sum of squares has at most 20 roundings here and 13 on the CPU, halved by the root; the rest of the formula
// has four on each side: below 25 u. out: that and five roundings on each side, by the length of the turned pair, then
// an ulp of BF16 (2^-7) where neighbours round apart. dx: only the mean differs, by 36 u of the mean of |dz * z|, and
// five roundings of the rest on each side.
TEST_CASE("rotary with QK-norm agrees with the CPU on real values, with the same bits in every order") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const double store = type == DType::bf16 ? 0x1p-7 : 0;
  const auto cpu = make_cpu_backend(2);
  for (const Shape& s : kShapes) {
    Inputs in(s, type, DType::bf16, Table::real, true);
    const Forward f = forward(in, cpu.get());
    const Backward b = backward(in, DType::fp32, cpu.get());
    cuda_host::set_order({});
    const Forward found = forward(in, nullptr);
    const Backward back = backward(in, DType::fp32, nullptr);
    CAPTURE(s.N, s.D);
    REQUIRE(equal_gains(back, b));
    for (const cuda_host::Order order : cuda_host::kOrders) {
      cuda_host::set_order(order);
      REQUIRE(forward(in, nullptr) == found);
      REQUIRE(backward(in, DType::fp32, nullptr) == back);
    }
    int64_t wrong = 0;
    const int heads = s.H + s.Hkv, half = s.D / 2;
    for (int64_t i = 0; i < s.N * heads; ++i) {
      wrong += !(std::fabs(found.rstd.get(i) - f.rstd.get(i)) <= 25 * kU * f.rstd.get(i));
      const int64_t head = i / heads * s.row() + i % heads * s.D;
      const TestTensor& gain = i % heads < s.H ? in.query_gain : in.key_gain;
      const double rstd = in.rstd.get(i);
      std::vector<double> dz, z;
      double mean = 0;
      for (int d = 0; d < s.D; ++d) {
        const double pair = std::hypot(in.d_out.get(head + d), in.d_out.get(head + (d + half) % s.D));
        dz.push_back(pair * std::fabs(gain.get(d)));
        z.push_back(std::fabs(in.qkv.get(head + d)) * rstd);
        mean += dz.back() * z.back() / s.D;
      }
      for (int d = 0; d < s.D; ++d) {
        const double out = f.out.get(head + d), dx = b.d_qkv.get(head + d);
        const double pair = std::hypot(out, f.out.get(head + (d + half) % s.D)) * (1 + store);
        const double part = rstd * (36 * z[static_cast<size_t>(d)] * mean +
                                    10 * (dz[static_cast<size_t>(d)] + z[static_cast<size_t>(d)] * mean));
        wrong += !(std::fabs(found.out.get(head + d) - out) <= 35 * kU * pair + store * std::fabs(out));
        wrong += !(std::fabs(back.d_qkv.get(head + d) - dx) <= kU * part + store * (std::fabs(dx) + kU * part));
      }
    }
    REQUIRE(wrong == 0);
  }
}

// Catches: the last stage of the gain sums that stops after its first 32 blocks or adds what lies behind the last one.
TEST_CASE("rotary_backward adds the gain sums of many blocks in the CPU's order") {
  const Shape s{.N = 32 * 67 + 5, .T = 32 * 67 + 5, .H = 1, .Hkv = 1, .D = 32};
  Inputs in(s, DType::bf16, DType::bf16, Table::real, true);
  const Backward expected = backward(in, DType::fp32, make_cpu_backend(2).get());
  cuda_host::set_order({});
  REQUIRE(equal_gains(backward(in, DType::fp32, nullptr), expected));
}

// Catches: an operation that starts its kernel without check().
TEST_CASE("rotary on CUDA checks its arguments") {
  Inputs in({.N = 6, .T = 4, .H = 2, .Hkv = 1, .D = 64}, DType::bf16, DType::bf16, Table::absent, true);
  REQUIRE_THROWS_AS(forward(in, nullptr), Error);
  REQUIRE_THROWS_AS(backward(in, DType::fp32, nullptr), Error);
}

}  // namespace dither
