// GELU and SwiGLU against FP64. Bounds count roundings: u = 2^-24 for each FP32 operation and 2^-22 for exp_fp32; an
// error e in the argument a of the sigmoid changes it by the factor 1 + e (1 - s).
#include <cmath>
#include <vector>

#include "base/error.h"
#include "kernels/backend.h"
#include "tests/kernels/operation_test.h"
#include "tests/kernels/tensors.h"
#include "tests/kernels/test_backend.h"

namespace dither {
namespace {

constexpr double kU = 0x1p-24;
double rounding_of(DType type) { return type == DType::bf16 ? 0x1p-8 : 0; }  // of the store: half an ulp of BF16

double logistic(double x) { return 1 / (1 + std::exp(-x)); }
double gelu_argument(double x) { return 2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x); }
/// 0.5 x (1 + tanh(a / 2)); for negative a by the other tail, where 1 + tanh would cancel.
double gelu_reference(double x) {
  const double a = gelu_argument(x);
  return a > 0 ? 0.5 * x * (1 + std::tanh(0.5 * a)) : x * std::exp(a) / (1 + std::exp(a));
}
double silu_reference(double x) { return x * logistic(x); }
template <class F>
double slope(F f, double x) {  // central difference of fourth order: truncation and rounding below 1e-11 here
  const double e = 1e-3;
  return (8 * (f(x + e) - f(x - e)) - (f(x + 2 * e) - f(x - 2 * e))) / (12 * e);
}

struct Value {
  double value, bound;
};

/// gelu: five roundings and two constants in a, four u and the exponential's four in s, one in the product.
Value gelu_value(double x) {
  const double y = gelu_reference(x), a = std::fabs(gelu_argument(x));
  return {y, std::fabs(y) * (8 * a + 10) * kU + 1e-30};
}
/// s + x s (1 - s) a': besides relative errors, 1 - s has the absolute error u.
Value gelu_slope(double x) {
  const double a = std::fabs(gelu_argument(x)), s = logistic(gelu_argument(x));
  const double da = 1.5957691216 * (1 + 3 * 0.044715 * x * x);
  const double product = std::fabs(x) * s * da;
  return {slope(gelu_reference, x), ((s + 2 * product * (1 - s)) * (8 * a + 16) + 2 * product) * kU + 1e-11};
}
Value silu_value(double x) { return {silu_reference(x), std::fabs(silu_reference(x)) * 10 * kU + 1e-30}; }
Value silu_slope(double x) {
  const double s = logistic(x);
  return {slope(silu_reference, x), s * (1 + std::fabs(x)) * 24 * kU + 1e-11};
}

bool close(double found, Value expected, double factor, DType type) {
  const double value = expected.value * factor, bound = expected.bound * std::fabs(factor);
  return std::fabs(found - value) <= bound + std::fabs(value) * (rounding_of(type) + 2 * kU);
}

std::unique_ptr<Backend> backend(int threads = 2) { return test_backend(threads); }

// Catches: the erf form (off by up to 5e-4), a missing cube, elements behind the last sixteen forgotten, a write behind
// the last element.
OPERATION_TEST(gelu_forward, "agrees with the tanh form in FP64") {
  const DType type = GENERATE(DType::bf16, DType::fp32);
  const int64_t elements = GENERATE(1, 15, 16, 17, 1003, 33000);
  const TestTensor x = normal_tensor(type, elements, 1, 3);
  TestTensor y(type, elements);
  backend()->gelu_forward({.y = y, .x = x, .elements = elements}, {});
  for (int64_t i = 0; i < elements; ++i) {
    if (!close(y.get(i), gelu_value(x.get(i)), 1, type)) {
      CAPTURE(i, x.get(i), y.get(i), gelu_reference(x.get(i)));
      FAIL("outside the bound");
    }
  }
  REQUIRE(y.guard_intact());
}

// Catches: the derivative of the erf form, dy left out, x read after dx was written over dy.
OPERATION_TEST(gelu_backward, "agrees with a finite difference of the FP64 form") {
  const DType type = GENERATE(DType::bf16, DType::fp32);
  const int64_t elements = GENERATE(1, 15, 1003, 33000);
  const TestTensor x = normal_tensor(type, elements, 2, 3), dy = normal_tensor(type, elements, 3);
  TestTensor dx(type, elements);
  backend()->gelu_backward({.dx = dx, .dy = dy, .x = x, .elements = elements}, {});
  for (int64_t i = 0; i < elements; ++i) {
    if (!close(dx.get(i), gelu_slope(x.get(i)), dy.get(i), type)) {
      CAPTURE(i, x.get(i), dx.get(i), dy.get(i));
      FAIL("outside the bound");
    }
  }
  REQUIRE(dx.guard_intact());
}

// Catches: gate and up swapped, a row stride of F, a half vector (F = 8, 24) computed as a whole one.
OPERATION_TEST(swiglu_forward, "agrees with FP64, for rows that end in half a vector too") {
  const DType type = GENERATE(DType::bf16, DType::fp32);
  const int F = GENERATE(8, 24, 32, 104);
  const int64_t N = GENERATE(1, 2, 65);
  const TestTensor gate_up = normal_tensor(type, N * 2 * F, 4, 3);
  TestTensor y(type, N * F);
  backend()->swiglu_forward({.y = y, .gate_up = gate_up, .N = N, .F = F}, {});
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t f = 0; f < F; ++f) {
      const double gate = gate_up.get(n * 2 * F + f), up = gate_up.get(n * 2 * F + F + f);
      if (!close(y.get(n * F + f), silu_value(gate), up, type)) {
        CAPTURE(n, f, gate, up);
        FAIL("outside the bound");
      }
    }
  }
  REQUIRE(y.guard_intact());
}

// Catches: the two gradients swapped, silu in place of its derivative, up or dy left out.
OPERATION_TEST(swiglu_backward, "agrees with a finite difference of the FP64 form") {
  const DType type = GENERATE(DType::bf16, DType::fp32);
  const int F = GENERATE(8, 24, 104);
  const int64_t N = GENERATE(1, 65);
  const TestTensor gate_up = normal_tensor(type, N * 2 * F, 5, 3), dy = normal_tensor(type, N * F, 6);
  TestTensor d(type, N * 2 * F);
  backend()->swiglu_backward({.d_gate_up = d, .dy = dy, .gate_up = gate_up, .N = N, .F = F}, {});
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t f = 0; f < F; ++f) {
      const int64_t at = n * 2 * F + f;
      const double gate = gate_up.get(at), up = gate_up.get(at + F), g = dy.get(n * F + f);
      if (!close(d.get(at), silu_slope(gate), g * up, type)) {
        CAPTURE(n, f, gate, up, g);
        FAIL("gate: outside the bound");
      }
      if (!close(d.get(at + F), silu_value(gate), g, type)) {
        CAPTURE(n, f, gate, up, g);
        FAIL("up: outside the bound");
      }
    }
  }
  REQUIRE(d.guard_intact());
}

TestTensor converted(const TestTensor& from, DType type) { return tensor_of(type, to_doubles(from)); }

struct AllFour {
  TestTensor gelu, d_gelu, swiglu, d_swiglu;
  bool operator==(const AllFour& other) const {
    return same_bits(gelu, other.gelu) && same_bits(d_gelu, other.d_gelu) && same_bits(swiglu, other.swiglu) &&
           same_bits(d_swiglu, other.d_swiglu);
  }
};

/// The four operations on BF16 values stored as `type`: x [N,2F] is gelu's input and gate_up, dy its gradient.
AllFour all_four(DType type, int threads, bool in_place) {
  constexpr int64_t kN = 37;
  constexpr int kF = 1000;
  const TestTensor x = converted(normal_tensor(DType::bf16, kN * 2 * kF, 7, 2), type);
  const TestTensor dy = converted(normal_tensor(DType::bf16, kN * 2 * kF, 8), type);
  AllFour found{in_place ? x : TestTensor(type, x.elements()), in_place ? dy : TestTensor(type, x.elements()),
                TestTensor(type, kN * kF), in_place ? x : TestTensor(type, x.elements())};
  const auto cpu = backend(threads);
  cpu->gelu_forward({.y = found.gelu, .x = in_place ? found.gelu : x, .elements = x.elements()}, {});
  cpu->gelu_backward({.dx = found.d_gelu, .dy = in_place ? found.d_gelu : dy, .x = x, .elements = x.elements()}, {});
  cpu->swiglu_forward({.y = found.swiglu, .gate_up = x, .N = kN, .F = kF}, {});
  cpu->swiglu_backward(
      {.d_gate_up = found.d_swiglu, .dy = dy, .gate_up = in_place ? found.d_swiglu : x, .N = kN, .F = kF}, {});
  return found;
}

// Catches: arithmetic in BF16, a second rounding between two steps.
TEST_CASE("gelu and swiglu in BF16 are the FP32 results rounded once") {
  const AllFour exact = all_four(DType::fp32, 1, false), found = all_four(DType::bf16, 1, false);
  REQUIRE(same_bits(found.gelu, converted(exact.gelu, DType::bf16)));
  REQUIRE(same_bits(found.d_gelu, converted(exact.d_gelu, DType::bf16)));
  REQUIRE(same_bits(found.swiglu, converted(exact.swiglu, DType::bf16)));
  REQUIRE(same_bits(found.d_swiglu, converted(exact.d_swiglu, DType::bf16)));
}

// Catches: an output written before the inputs at its place were read, parts cut by the thread count.
TEST_CASE("gelu and swiglu give the same bits in place and on 1 to 4 threads") {
  const DType type = GENERATE(DType::bf16, DType::fp32);
  const AllFour expected = all_four(type, 1, false);
  REQUIRE(all_four(type, GENERATE(1, 2, 3, 4), GENERATE(false, true)) == expected);
}

// Catches: a demand that was forgotten or names another value than it tests.
TEST_CASE("gelu and swiglu refuse what they cannot compute and say why") {
  TestTensor a(DType::bf16, 64), b(DType::bf16, 64), wide(DType::fp32, 64);
  REQUIRE_THROWS_WITH((GeluForward{.y = a, .x = b, .elements = 0}.check()),
                      "gelu_forward: elements is 0, needs at least 1");
  REQUIRE_THROWS_WITH((GeluForward{.y = wide, .x = b, .elements = 64}.check()), "gelu_forward: y is fp32, needs bf16");
  REQUIRE_THROWS_WITH((GeluForward{.y = a.at(8), .x = a, .elements = 32}.check()),
                      "gelu_forward: the distance in bytes from y to x is -16, needs tensors that do not overlap");
  REQUIRE_THROWS_WITH((GeluBackward{.dx = a, .dy = b, .x = a, .elements = 64}.check()),
                      "gelu_backward: the distance in bytes from dx to x is 0, needs tensors that do not overlap");
  REQUIRE_THROWS_WITH((GeluBackward{.dx = a, .dy = {}, .x = b, .elements = 64}.check()),
                      "gelu_backward: dy is absent, needs a BF16 or FP32 tensor");
  REQUIRE_THROWS_WITH((SwigluForward{.y = a, .gate_up = b, .N = 2, .F = 12}.check()),
                      "swiglu_forward: F is 12, needs a multiple of 8");
  REQUIRE_THROWS_WITH(
      (SwigluForward{.y = a.at(32), .gate_up = a, .N = 2, .F = 16}.check()),
      "swiglu_forward: the distance in bytes from y to gate_up is -64, needs tensors that do not overlap");
  REQUIRE_THROWS_WITH((SwigluBackward{.d_gate_up = a, .dy = wide, .gate_up = b, .N = 2, .F = 16}.check()),
                      "swiglu_backward: dy is fp32, needs bf16");
  REQUIRE_NOTHROW(SwigluBackward{.d_gate_up = a, .dy = b, .gate_up = a, .N = 2, .F = 16}.check());
}

}  // namespace
}  // namespace dither
