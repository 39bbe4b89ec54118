// Copies on the host execution against the CPU: bit for bit.
#include <cstring>

#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/cuda/kernels.h"
#include "tests/catch.h"
#include "tests/cuda_host/execution.h"
#include "tests/kernels/tensors.h"

namespace dither {
namespace {

/// Normal values among which lie ties of RN, both zeros, the infinities and a signalling NaN with its payload below.
TestTensor any_values(DType type, int64_t elements) {
  TestTensor x = normal_tensor(type, elements, 1, 3);
  const uint32_t special[] = {0x3F808000, 0x3F818000, 0x80000000, 0x7F800000, 0xFF800000,
                              0x7F800001, 0xFFA00000, 0x7F7FFFFF, 0x00000001, 0x80018000};
  int64_t i = 3;
  for (const uint32_t bits : special) {
    if (i >= elements) break;
    if (type == DType::fp32) std::memcpy(static_cast<void*>(x.fp32() + i), &bits, 4);
    if (type == DType::bf16) x.bf16()[i] = {static_cast<uint16_t>(bits >> 16 | (bits & 1))};
    i += 5;
  }
  return x;
}

}  // namespace

// Catches: the elements behind the last eight forgotten or written twice too far, a view between multiples of sixteen
// bytes read as if it were on one, truncation, a NaN whose payload is lost or quietened although the type stays.
TEST_CASE("copy gives the CPU's bits for every count, type and place") {
  const auto to = GENERATE(DType::bf16, DType::fp32), from = GENERATE(DType::bf16, DType::fp32);
  const auto cpu = make_cpu_backend(2);
  const TestTensor x = any_values(from, 5100);
  for (const int64_t elements : {1, 7, 8, 9, 33, 2048, 5003}) {
    for (const int64_t offset : {0, 1, 4, 8}) {
      TestTensor expected(to, 5100);
      cpu->copy(expected.at(offset), ConstView(x).at(offset), elements, {});
      for (const cuda_host::Order order : cuda_host::kOrders) {
        cuda_host::set_order(order);
        TestTensor found(to, 5100);
        cuda::copy(found.at(offset), ConstView(x).at(offset), elements, {});
        CAPTURE(elements, offset);
        REQUIRE(same_bits(found, expected));  // what lies before and behind stays poison
      }
    }
  }
}

// Catches: checks of the CPU that were not taken over.
TEST_CASE("copy of nothing does nothing, and what is not allowed is named") {
  TestTensor x(DType::bf16, 8);
  REQUIRE_NOTHROW(cuda::copy({}, {}, 0, {}));
  REQUIRE_THROWS_WITH(cuda::copy(x, {}, 8, {}), "copy: from is absent, needs a BF16 or FP32 tensor");
  REQUIRE_THROWS_WITH(cuda::copy(x, x, -1, {}), "copy: elements is -1, needs at least 0");
}

}  // namespace dither
