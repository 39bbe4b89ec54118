// The CUDA backend itself: memory, copies through pinned memory, recorded work. On the host these tests run against the
// stand-ins for CUDA's calls, whose streams run as late as they may.
#include <cstdint>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernels/backend.h"
#include "tests/kernels/operation_test.h"

namespace dither {

static const TestedOperation kTested[] = {
    TestedOperation("allocate"),   TestedOperation("free"),           TestedOperation("copy"),
    TestedOperation("zero"),       TestedOperation("copy_from_host"), TestedOperation("copy_to_host"),
    TestedOperation("order"),      TestedOperation("synchronize"),    TestedOperation("repeat"),
    TestedOperation("algorithms"), TestedOperation("use_algorithms"), TestedOperation("tune")};

namespace {

using Catch::Matchers::ContainsSubstring;

std::vector<uint8_t> read(Backend& backend, const void* memory, size_t bytes) {
  std::vector<uint8_t> values(bytes, 0x5A);
  backend.copy_to_host(values.data(), memory, static_cast<int64_t>(bytes), backend.stream());
  backend.synchronize(backend.stream());
  return values;
}

std::vector<uint8_t> counted(size_t bytes, unsigned start) {
  std::vector<uint8_t> values(bytes);
  for (size_t i = 0; i < bytes; ++i) values[i] = static_cast<uint8_t>(start + i * 7 + i / 251);
  return values;
}

}  // namespace

// Catches: memory as the device hands it out, counters that forget a release, a workspace outside of the plan.
TEST_CASE("device memory is zero, aligned and counted, the workspace of products included") {
  const auto backend = make_cuda_backend(0);
  const int64_t own = backend->allocated_bytes();
  REQUIRE(own == cuda_workspace_bytes());
  for (const int64_t bytes : {1, 255, 1000003}) {
    for (int again = 0; again < 2; ++again) {
      void* memory = backend->allocate(bytes);
      REQUIRE(reinterpret_cast<uintptr_t>(memory) % 256 == 0);
      REQUIRE(read(*backend, memory, static_cast<size_t>(bytes)) ==
              std::vector<uint8_t>(static_cast<size_t>(bytes), 0));
      REQUIRE(backend->allocated_bytes() == own + bytes);
      const auto dirt = counted(static_cast<size_t>(bytes), 3);
      backend->copy_from_host(memory, dirt.data(), bytes, backend->stream());
      backend->free(memory);
      REQUIRE(backend->allocated_bytes() == own);
    }
  }
  backend->free(nullptr);
  REQUIRE_THROWS_WITH(backend->allocate(-1), "allocate: bytes is -1, needs at least 0");
  REQUIRE_THROWS_WITH(backend->allocate(int64_t{1} << 50),
                      ContainsSubstring("device memory: 1048576.0 GiB wanted, ") &&
                          ContainsSubstring(" free beside the 32.0 MiB that this run holds"));
}

// Catches: copies that read the host's memory when they are done rather than when they are given; a ring of pinned
// slots that is written again before it was read; large copies cut wrongly.
TEST_CASE("host memory may be used again as soon as copy_from_host returns") {
  const auto backend = make_cuda_backend(0);
  const Stream stream = backend->stream();
  constexpr size_t kBytes = (size_t{10} << 20) + 777;  // more than all pinned memory
  void* large = backend->allocate(kBytes);
  auto values = counted(kBytes, 1);
  const auto kept = values;
  backend->copy_from_host(large, values.data(), kBytes, stream);
  std::fill(values.begin(), values.end(), 0);
  REQUIRE(read(*backend, large, kBytes) == kept);

  constexpr int kCopies = 100;  // more than there are slots
  auto* small = static_cast<int32_t*>(backend->allocate(kCopies * 4));
  for (int32_t i = 0; i < kCopies; ++i) {
    int32_t value = 1000 + i;
    backend->copy_from_host(small + i, &value, 4, stream);
    value = -1;
  }
  const auto bytes = read(*backend, small, kCopies * 4);
  for (int32_t i = 0; i < kCopies; ++i) {
    int32_t value = 0;
    std::memcpy(&value, bytes.data() + 4 * i, 4);
    REQUIRE(value == 1000 + i);
  }
  backend->free(large);
  backend->free(small);
}

// Catches: work that is recorded but not done, done twice, or called again although it was recorded; a key that is
// ignored; a replay that uses the values of the time of recording.
TEST_CASE("repeated work is called twice, replayed from then on, and done every time") {
  const auto backend = make_cuda_backend(0);
  const Stream stream = backend->stream();
  auto* memory = static_cast<float*>(backend->allocate(3 * 64 * 4));
  const View in{memory, DType::fp32}, middle = in.at(64), out = in.at(128);
  int called = 0;
  for (int run = 1; run <= 5; ++run) {
    std::vector<float> values(64, static_cast<float>(run));
    backend->copy_from_host(in.data, values.data(), 256, stream);
    backend->repeat(7, stream, [&] {
      ++called;
      backend->copy(middle, in, 64, stream);
      backend->copy(out, middle, 64, stream);
    });
    backend->copy_to_host(values.data(), out.data, 256, stream);
    backend->synchronize(stream);
    REQUIRE(values == std::vector<float>(64, static_cast<float>(run)));
  }
  REQUIRE(called == 2);
  backend->repeat(8, stream, [&] { ++called; });
  REQUIRE(called == 3);
  backend->free(memory);
}

// Catches: a second stream that is the first, an order() that waits for nothing or for what a stream got earlier.
TEST_CASE("what one stream was given before order() is done before what the other gets after it") {
  const auto backend = make_cuda_backend(0);
  const Stream stream = backend->stream(), second = backend->second_stream();
  REQUIRE(stream.handle != second.handle);
  auto* memory = static_cast<float*>(backend->allocate(3 * 64 * 4));
  const View in{memory, DType::fp32}, middle = in.at(64), out = in.at(128);
  for (int run = 1; run <= 5; ++run) {
    std::vector<float> values(64, static_cast<float>(run));
    backend->copy_from_host(in.data, values.data(), 256, stream);
    backend->order(stream, second);
    backend->copy(middle, in, 64, second);
    backend->order(second, stream);
    backend->copy(out, middle, 64, stream);
    backend->order(stream, second);
    backend->order(second, second);
    backend->copy_to_host(values.data(), out.data, 256, second);
    backend->synchronize(second);
    REQUIRE(values == std::vector<float>(64, static_cast<float>(run)));
  }
  backend->free(memory);
}

// Catches: a second stream whose part is done at the time of recording and never again, or before what it waits for.
TEST_CASE("repeated work may use both streams: the second one's part is replayed in its place") {
  const auto backend = make_cuda_backend(0);
  const Stream stream = backend->stream(), second = backend->second_stream();
  auto* memory = static_cast<float*>(backend->allocate(4 * 64 * 4));
  const View in{memory, DType::fp32}, middle = in.at(64), beside = in.at(128), out = in.at(192);
  int called = 0;
  for (int run = 1; run <= 5; ++run) {
    std::vector<float> values(64, static_cast<float>(run));
    backend->copy_from_host(in.data, values.data(), 256, stream);
    backend->repeat(7, stream, [&] {
      ++called;
      backend->copy(middle, in, 64, stream);
      backend->order(stream, second);
      backend->copy(beside, middle, 64, second);
      backend->order(second, stream);
      backend->copy(out, beside, 64, stream);
      backend->zero(middle.data, 256, stream);
    });
    backend->copy_to_host(values.data(), out.data, 256, stream);
    backend->synchronize(stream);
    REQUIRE(values == std::vector<float>(64, static_cast<float>(run)));
  }
  REQUIRE(called == 2);
  backend->free(memory);
}

// Catches: an error that leaves the second stream in capture, a recording without what was not joined.
TEST_CASE("repeated work that does not join the second stream is refused by name, and both streams work on") {
  const auto backend = make_cuda_backend(0);
  const Stream stream = backend->stream(), second = backend->second_stream();
  void* memory = backend->allocate(64);
  const auto dirt = counted(64, 3);
  const auto work = [&](bool join) {
    backend->repeat(1, stream, [&] {
      backend->order(stream, second);
      backend->zero(memory, 64, second);
      if (join) backend->order(second, stream);
    });
  };
  work(true);
  REQUIRE_THROWS_WITH(work(false), ContainsSubstring("recording a step: cudaErrorStreamCaptureUnjoined"));
  backend->synchronize(second);
  for (int run = 0; run < 2; ++run) {  // recorded, then replayed
    backend->copy_from_host(memory, dirt.data(), 64, stream);
    work(true);
    REQUIRE(read(*backend, memory, 64) == std::vector<uint8_t>(64, 0));
  }
  backend->free(memory);
}

// Catches: a stream left in capture by an error, after which nothing works any more.
TEST_CASE("an error in work that is being recorded leaves the stream as it was") {
  const auto backend = make_cuda_backend(0);
  const Stream stream = backend->stream();
  void* memory = backend->allocate(64);
  const auto work = [&](bool fail) {
    backend->repeat(1, stream, [&] {
      backend->zero(memory, 64, stream);
      if (fail) throw Error("no");
    });
  };
  work(false);
  REQUIRE_THROWS_WITH(work(true), "no");
  work(false);
  REQUIRE(read(*backend, memory, 64) == std::vector<uint8_t>(64, 0));

  int called = 0;  // an error in the first run: the next one is the first, which is not recorded
  for (int run = 0; run < 5; ++run) {
    const auto failing = [&] {
      ++called;
      if (run == 0) throw Error("no");
    };
    if (run == 0) {
      REQUIRE_THROWS_WITH(backend->repeat(2, stream, failing), "no");
    } else {
      backend->repeat(2, stream, failing);
    }
  }
  REQUIRE(called == 3);
  backend->free(memory);
}

// Catches: a table that is not the products', a choice that is made again although the table has it.
TEST_CASE("the algorithms of a run can be given to another one") {
  const auto first = make_cuda_backend(0);
  constexpr int64_t kSize = 64;
  auto* memory = static_cast<uint16_t*>(first->allocate(3 * kSize * kSize * 2));
  LinearForward product{};
  product.y = {memory, DType::bf16};
  product.x = product.y.at(kSize * kSize);
  product.weight = product.y.at(2 * kSize * kSize);
  product.N = product.I = product.O = kSize;
  first->linear_forward(product, first->stream());
  first->synchronize(first->stream());
  const std::string table = first->algorithms();
  REQUIRE_THAT(table, ContainsSubstring("\"linear_forward\"") && ContainsSubstring("64"));

  const auto second = make_cuda_backend(0);
  second->use_algorithms(table, "the first run's table");
  second->tune(true);  // would measure a product that is not in the table
  second->linear_forward(product, second->stream());
  second->synchronize(second->stream());
  REQUIRE(second->algorithms() == table);
  REQUIRE_THROWS_WITH(second->use_algorithms("[]", "bad.json"), ContainsSubstring("bad.json"));
  first->free(memory);
}

TEST_CASE("a device that does not exist is refused, one that does says what it is") {
  REQUIRE_THROWS_WITH(make_cuda_backend(99), ContainsSubstring("CUDA backend: the device is 99, needs"));
  REQUIRE_THAT(make_cuda_backend(0)->description(), ContainsSubstring("compute capability ") &&
                                                        ContainsSubstring("driver for CUDA ") &&
                                                        ContainsSubstring(" free at the start"));
}

}  // namespace dither
