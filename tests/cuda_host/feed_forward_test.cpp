// GELU and SwiGLU on the host execution against the CPU: every element is its own, so all of it bit for bit.
#include <vector>

#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/cuda/kernels.h"
#include "tests/catch.h"
#include "tests/cuda_host/execution.h"
#include "tests/kernels/tensors.h"

namespace dither {
namespace {

/// Normal values with a few in the flat tails of the sigmoid, at zero and below the normal numbers.
TestTensor any_values(DType type, int64_t elements, uint64_t seed) {
  TestTensor x = normal_tensor(type, elements, seed, 3);
  const double special[] = {0.0, -0.0, 90, -90, 1e4, -1e4, 1e-40, -1e-40, 20, -20};
  int64_t i = 2;
  for (const double value : special) {
    if (i < elements) x.set(i, value);
    i += 3;
  }
  return x;
}

/// In every order of threads: `run` fills the tensor it is given, apart from its inputs and in place of `inside`.
template <class Run>
void require_bits(const TestTensor& expected, const TestTensor* inside, const Run& run) {
  for (const cuda_host::Order order : cuda_host::kOrders) {
    cuda_host::set_order(order);
    TestTensor apart(expected.type(), expected.elements());
    run(apart, nullptr);
    REQUIRE(same_bits(apart, expected));
    REQUIRE(apart.guard_intact());
    if (inside == nullptr) continue;
    TestTensor in_place = *inside;
    run(in_place, &in_place);
    REQUIRE(same_bits(in_place, expected));
  }
}

}  // namespace

// Catches: elements behind the last eight forgotten, a thread's eight cut off at the wrong place, a second rounding,
// expf, dy left out, an input overwritten before it was read.
TEST_CASE("gelu gives the CPU's bits for every count, apart and in place") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const auto elements = GENERATE(int64_t{1}, int64_t{7}, int64_t{8}, int64_t{9}, int64_t{65}, int64_t{2047},
                                 int64_t{2049}, int64_t{3 * 4104});
  const auto cpu = make_cpu_backend(2);
  const TestTensor x = any_values(type, elements, 1), dy = normal_tensor(type, elements, 2);
  TestTensor y(type, elements), dx(type, elements);
  cpu->gelu_forward({.y = y, .x = x, .elements = elements}, {});
  cpu->gelu_backward({.dx = dx, .dy = dy, .x = x, .elements = elements}, {});
  CAPTURE(elements);
  require_bits(y, &x, [&](TestTensor& out, const TestTensor* in) {
    cuda::gelu_forward({.y = out, .x = in != nullptr ? *in : x, .elements = elements}, {});
  });
  require_bits(dx, &dy, [&](TestTensor& out, const TestTensor* in) {
    cuda::gelu_backward({.dx = out, .dy = in != nullptr ? *in : dy, .x = x, .elements = elements}, {});
  });
}

// Catches: gate and up or their gradients swapped, a row stride of F, a row of several blocks (F = 4,104) cut wrongly,
// threads behind the row's end that write into the next one, d_gate written before the gate was read.
TEST_CASE("swiglu gives the CPU's bits for every row length, apart and in place") {
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const auto F = GENERATE(8, 24, 136, 1032, 2048, 4104);
  const auto N = GENERATE(int64_t{1}, int64_t{3}, int64_t{5});
  const auto cpu = make_cpu_backend(2);
  const TestTensor gate_up = any_values(type, N * 2 * F, 3), dy = normal_tensor(type, N * F, 4);
  TestTensor y(type, N * F), d_gate_up(type, N * 2 * F);
  cpu->swiglu_forward({.y = y, .gate_up = gate_up, .N = N, .F = F}, {});
  cpu->swiglu_backward({.d_gate_up = d_gate_up, .dy = dy, .gate_up = gate_up, .N = N, .F = F}, {});
  CAPTURE(N, F);
  require_bits(y, nullptr, [&](TestTensor& out, const TestTensor*) {
    cuda::swiglu_forward({.y = out, .gate_up = gate_up, .N = N, .F = F}, {});
  });
  require_bits(d_gate_up, &gate_up, [&](TestTensor& out, const TestTensor* in) {
    cuda::swiglu_backward({.d_gate_up = out, .dy = dy, .gate_up = in != nullptr ? *in : gate_up, .N = N, .F = F}, {});
  });
}

// Catches: an operation that starts its kernel without check().
TEST_CASE("gelu and swiglu on CUDA check their arguments") {
  TestTensor x(DType::bf16, 64), y(DType::bf16, 64);
  REQUIRE_THROWS_AS(cuda::gelu_forward({.y = y, .x = x, .elements = 0}, {}), Error);
  REQUIRE_THROWS_AS(cuda::gelu_backward({.dx = x, .dy = y, .x = x, .elements = 64}, {}), Error);
  REQUIRE_THROWS_AS(cuda::swiglu_forward({.y = y, .gate_up = x, .N = 2, .F = 12}, {}), Error);
  REQUIRE_THROWS_AS(cuda::swiglu_backward({.d_gate_up = x, .dy = {}, .gate_up = y, .N = 2, .F = 16}, {}), Error);
}

}  // namespace dither
