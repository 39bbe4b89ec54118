// Memory of the CPU backend: what it hands out, counts, copies and clears.
#include <cstdint>
#include <cstring>

#include "base/error.h"
#include "kernels/backend.h"
#include "tests/kernels/operation_test.h"
#include "tests/kernels/tensors.h"

namespace dither {

static const TestedOperation kTested[] = {
    TestedOperation("allocate"),   TestedOperation("free"),           TestedOperation("copy"),
    TestedOperation("zero"),       TestedOperation("copy_from_host"), TestedOperation("copy_to_host"),
    TestedOperation("order"),      TestedOperation("synchronize"),    TestedOperation("repeat"),
    TestedOperation("algorithms"), TestedOperation("use_algorithms"), TestedOperation("tune")};

// Catches: memory that is not cleared when it was used before, a lost alignment, counters that forget a release.
TEST_CASE("allocated memory is zero, aligned and counted") {
  const auto backend = make_cpu_backend(2);
  REQUIRE(backend->allocated_bytes() == 0);
  REQUIRE(backend->allocation_count() == 0);
  int64_t count = 0;
  for (const int64_t bytes : {1, 255, 4096, 1000003, 5 * 1024 * 1024}) {
    for (int again = 0; again < 2; ++again) {
      auto* memory = static_cast<unsigned char*>(backend->allocate(bytes));
      REQUIRE(reinterpret_cast<uintptr_t>(memory) % 256 == 0);
      REQUIRE(std::count(memory, memory + bytes, 0) == bytes);
      REQUIRE(backend->allocated_bytes() == bytes);
      REQUIRE(backend->allocation_count() == ++count);
      std::memset(memory, 0xA5, static_cast<size_t>(bytes));
      backend->free(memory);
      REQUIRE(backend->allocated_bytes() == 0);
      REQUIRE(backend->allocation_count() == count);  // made so far, not alive
    }
  }
  void* first = backend->allocate(100);
  void* second = backend->allocate(28);
  REQUIRE(first != second);
  REQUIRE(backend->allocated_bytes() == 128);
  backend->free(nullptr);
  backend->free(first);
  REQUIRE(backend->allocated_bytes() == 28);
  backend->free(second);
  void* nothing = backend->allocate(0);
  REQUIRE(nothing != nullptr);
  backend->free(nothing);
}

// Catches: a promise that ends in a killed process, an error without the sizes.
TEST_CASE("memory that does not exist is refused with both sizes") {
  const auto backend = make_cpu_backend(1);
  void* held = backend->allocate(3 * 1024 * 1024);
  using Catch::Matchers::ContainsSubstring;
  REQUIRE_THROWS_AS(backend->allocate(int64_t{1} << 50), Error);
  REQUIRE_THROWS_WITH(backend->allocate(int64_t{1} << 50),
                      ContainsSubstring("CPU memory: 1073741824.0 MiB wanted, ") &&
                          ContainsSubstring(" MiB available (") &&
                          ContainsSubstring(") beside the 3.0 MiB that this run holds"));
  REQUIRE_THROWS_WITH(backend->allocate(-1), "allocate: bytes is -1, needs at least 0");
  REQUIRE(backend->allocated_bytes() == 3 * 1024 * 1024);
  REQUIRE(backend->allocation_count() == 1);
  backend->free(held);
}

// Catches: truncation, a NaN that becomes Inf, a tail left out, parts that overlap, elements taken for bytes.
TEST_CASE("copies round by RN where the type narrows and change nothing where it does not") {
  const auto backend = make_cpu_backend(3);
  for (const int64_t elements : {1, 15, 16, 17, 1000, 600011}) {
    TestTensor wide = normal_tensor(DType::fp32, elements, 7);
    wide.fp32()[0] = std::bit_cast<float>(0x7F800001u);
    if (elements > 2) wide.fp32()[1] = 1.00390625f;  // half way between 1 and the next BF16: ties to even, so down
    if (elements > 2) wide.fp32()[2] = std::bit_cast<float>(0x00018001u);  // subnormals round like all others
    TestTensor narrow(DType::bf16, elements), expected(DType::bf16, elements), back(DType::fp32, elements);
    for (int64_t i = 0; i < elements; ++i) expected.bf16()[i] = round_nearest(wide.fp32()[i]);
    backend->copy(narrow, wide, elements, {});
    REQUIRE(same_bits(narrow, expected));
    REQUIRE(narrow.guard_intact());
    backend->copy(back, narrow, elements, {});
    for (int64_t i = 0; i < elements; ++i) {
      if (std::bit_cast<uint32_t>(back.fp32()[i]) != uint32_t{expected.bf16()[i].bits} << 16)
        FAIL("widened wrongly at " << i);
    }
    TestTensor same(DType::fp32, elements), host(DType::fp32, elements);
    backend->copy(same, wide, elements, {});
    REQUIRE(same_bits(same, wide));
    backend->copy_to_host(host.fp32(), same.fp32(), same.bytes(), {});
    REQUIRE(same_bits(host, wide));
    backend->copy_from_host(same.fp32(), back.fp32(), back.bytes(), {});
    backend->synchronize({});
    REQUIRE(same_bits(same, back));
    REQUIRE(same.guard_intact());
    backend->zero(same.fp32(), same.bytes(), {});
    REQUIRE(same_bits(same, filled_tensor(DType::fp32, elements, 0)));
    REQUIRE(same.guard_intact());
  }
  backend->copy({}, {}, 0, {});
  TestTensor tensor(DType::fp32, 8);
  REQUIRE_THROWS_WITH(backend->copy(tensor, {}, 8, {}), "copy: from is absent, needs a BF16 or FP32 tensor");
}

// Catches: a table line that does not say what computes.
TEST_CASE("the backend describes itself in one line") {
  using Catch::Matchers::StartsWith;
  REQUIRE_THAT(make_cpu_backend(1)->description(), StartsWith("CPU, 1 thread, "));
  REQUIRE_THAT(make_cpu_backend(3)->description(), StartsWith("CPU, 3 threads, "));
  REQUIRE_THROWS_WITH(make_cpu_backend(-1),
                      "CPU backend: the number of threads is -1, needs at least 0 (0 = all cores)");
}

// Catches: a queue that the CPU does not have.
TEST_CASE("the CPU has one queue, whose order is kept already") {
  const auto backend = make_cpu_backend(1);
  REQUIRE(backend->second_stream().handle == backend->stream().handle);
  REQUIRE_NOTHROW(backend->order(backend->second_stream(), backend->stream()));
}

TEST_CASE("the CPU calls repeated work each time, and has no algorithms to choose from") {
  const auto backend = make_cpu_backend(1);
  int called = 0;
  for (int i = 0; i < 3; ++i) backend->repeat(1, backend->stream(), [&] { ++called; });
  REQUIRE(called == 3);
  REQUIRE(backend->algorithms().empty());
  using Catch::Matchers::ContainsSubstring;
  REQUIRE_THROWS_WITH(backend->use_algorithms("{}", "a.json"),
                      ContainsSubstring("a.json: a table of algorithms is for CUDA, and this run is on CPU, 1 thread"));
  REQUIRE_THROWS_WITH(backend->tune(true), ContainsSubstring("there is nothing to tune on CPU, 1 thread"));
}

}  // namespace dither
