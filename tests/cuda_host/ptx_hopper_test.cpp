// The host's twins of Hopper's instructions (kernels/cuda/ptx_hopper.h) against the PTX ISA: barriers that count bytes,
// bulk copies with the 128-byte swizzle and stmatrix. Products of warpgroups: wgmma_test.cpp.
#include "kernels/cuda/ptx_hopper.h"

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernels/cuda/launch.h"
#include "tests/catch.h"
#include "tests/cuda_host/execution.h"
#include "tests/kernels/tensors.h"

namespace dither {
namespace {

using Catch::Matchers::ContainsSubstring;

constexpr uint16_t kPoison16 = 0xFFFF;

int thread_of_test() { return static_cast<int>(threadIdx.x); }

/// The first place in shared memory that a box may lie at.
unsigned char* box_place() {
  const uint32_t window = window_address(shared_address(shared_memory<unsigned char>()));
  return shared_memory<unsigned char>((1024 - window % 1024) % 1024);
}

constexpr int kBoxRows = 16;
constexpr int kBoxBytes = kBoxRows * 128;
constexpr int64_t kSharedBytes = 1024 + kBoxBytes + 1024;  // a box and a barrier behind it

enum class Fault { none, no_wait, no_fence, unaligned, few_bytes, many_bytes, arrived_twice, written_over, outside };

/// One box [16, 64] from the coordinates to out, as it lies in shared memory, once it is waited for.
void copy_kernel(uint16_t* out, TensorMap map, int at0, int at1, int at2, int at3, uint16_t* source, Fault fault) {
  unsigned char* box = box_place();
  const SharedAddress barrier = shared_address(box + kBoxBytes);
  for (int i = thread_of_test(); i < kBoxBytes; i += static_cast<int>(blockDim.x)) box[i] = 1;
  __syncthreads();
  if (thread_of_test() == 0) {
    mbarrier_init(barrier, 1);
    if (fault != Fault::no_fence) fence_barrier_init();
    if (fault == Fault::written_over) *reinterpret_cast<uint64_t*>(box + kBoxBytes) = 0;
    mbarrier_expect_bytes(
        barrier, fault == Fault::few_bytes ? kBoxBytes / 2 : kBoxBytes + (fault == Fault::many_bytes ? 16 : 0));
    if (fault == Fault::arrived_twice) mbarrier_arrive(barrier);
    const int shift = fault == Fault::unaligned ? 128 : fault == Fault::outside ? 4096 : 0;
    tma_load(shared_address(box + shift), &map, barrier, at0, at1, at2, at3);
    *source = 7;  // read when the copy is waited for
  }
  __syncthreads();
  if (fault != Fault::no_wait) mbarrier_wait(barrier, 0);
  for (int i = thread_of_test(); i < kBoxBytes / 2; i += static_cast<int>(blockDim.x)) {
    out[i] = reinterpret_cast<uint16_t*>(box)[i];
  }
}

/// Values i of a tensor [3, 20, 2, 96] whose rows lie 3 * 96 elements apart.
struct Source {
  static constexpr int kColumns = 96, kHeads = 2, kRows = 20, kSequences = 3, kRow = (kHeads + 1) * kColumns;
  TestTensor tensor{DType::bf16, int64_t{kSequences} * kRows* kRow};
  Source() {
    for (int64_t i = 0; i < tensor.elements(); ++i) values()[i] = static_cast<uint16_t>(1000 + i);
  }
  uint16_t* values() { return reinterpret_cast<uint16_t*>(tensor.bf16()); }
  TiledTensor tiled() {
    return {.memory = tensor.bf16(),
            .sizes = {kColumns, kHeads, kRows, kSequences},
            .stride_bytes = {kColumns * 2, kRow * 2, kRows * kRow * 2},
            .boxes = {1, kBoxRows, 1}};
  }
};

struct Corner {
  int column, head, row, sequence;
};

std::vector<uint16_t> copied(Source& source, const Corner& at, Fault fault = Fault::none) {
  std::vector<uint16_t> out(kBoxBytes / 2);
  launch({"copy", 1, 64, kSharedBytes}, {}, copy_kernel, out.data(), tensor_map(source.tiled(), "copy"), at.column,
         at.head, at.row, at.sequence, source.values(), fault);
  return out;
}

/// A ring of two places for integers: one thread fills, the warps of the other threads sum, each for itself.
void ring_kernel(int* sums, int count, bool wait_full, bool wait_empty) {
  const int warp = thread_of_test() / 32, warps = static_cast<int>(blockDim.x) / 32 - 1;
  int* place = shared_memory<int>();
  const auto barrier = [](int i) { return shared_address(shared_memory<uint64_t>(8 + 8 * i)); };  // full 0, 1, empty
  if (thread_of_test() == 0) {
    for (int i = 0; i < 2; ++i) mbarrier_init(barrier(i), 1);
    for (int i = 2; i < 4; ++i) mbarrier_init(barrier(i), static_cast<uint32_t>(warps));
    fence_barrier_init();
  }
  __syncthreads();
  for (int i = 0; i < count; ++i) {
    const auto parity = static_cast<uint32_t>(i / 2 % 2);
    if (warp == warps) {
      if (thread_of_test() % 32 != 0) return;
      if (wait_empty) mbarrier_wait(barrier(2 + i % 2), parity ^ 1);
      place[i % 2] = i * i;
      mbarrier_arrive(barrier(i % 2));
    } else {
      if (wait_full) mbarrier_wait(barrier(i % 2), parity);
      sums[thread_of_test()] += place[i % 2];
      __syncwarp();
      if (thread_of_test() % 32 == 0) mbarrier_arrive(barrier(2 + i % 2));
    }
  }
}

std::vector<int> ring_sums(bool wait_full = true, bool wait_empty = true) {
  std::vector<int> sums(64);
  launch({"ring", 1, 96, 40}, {}, ring_kernel, sums.data(), 7, wait_full, wait_empty);
  return sums;
}

void stuck_kernel() {
  const SharedAddress barrier = shared_address(shared_memory<uint64_t>());
  if (thread_of_test() == 0) mbarrier_init(barrier, 2);
  __syncthreads();
  if (thread_of_test() == 0) mbarrier_arrive(barrier);
  mbarrier_wait(barrier, 0);
}

void no_barrier_kernel() { mbarrier_wait(shared_address(shared_memory<uint64_t>()), 0); }

/// Matrix m, row r, column c is 64 m + 8 r + c; rows lie in memory as 7 * (8 m + r) mod 32.
void store_matrices_kernel(uint16_t* out, int64_t shift) {
  const int lane = thread_of_test();
  uint32_t r[4];
  for (int m = 0; m < 4; ++m) {
    const auto first = static_cast<uint32_t>(64 * m + 8 * (lane / 4) + 2 * (lane % 4));
    r[m] = first | (first + 1) << 16;
  }
  auto* rows = shared_memory<uint16_t>(shift);
  stmatrix_x4(shared_address(rows + 7 * lane % 32 * 8), r);
  __syncwarp();
  for (int c = 0; c < 8; ++c) out[8 * lane + c] = rows[7 * lane % 32 * 8 + c];
}

std::string complaint(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

// Catches: coordinates or strides in another order, a swizzle by another bit of the address or another row, elements
// outside of the tensor that are read, wrap around or do not count; a copy that reads its source when it starts.
TEST_CASE("a bulk copy lays chunk j of row r at chunk j ^ r % 8, zeros outside of the tensor") {
  for (const Corner at : {Corner{0, 1, 2, 1}, Corner{64, 0, 0, 2}, Corner{0, 0, 12, 0}, Corner{-8, 1, -3, 2},
                          Corner{0, 2, 0, 0}, Corner{0, 0, 0, 3}, Corner{0, 0, 20, 1}}) {
    Source source;
    const std::vector<uint16_t> box = copied(source, at);
    int different = 0;
    for (int r = 0; r < kBoxRows; ++r) {
      for (int c = 0; c < kBoxColumns; ++c) {
        const int column = at.column + c, row = at.row + r;
        const bool inside = column >= 0 && column < Source::kColumns && at.head < Source::kHeads && row >= 0 &&
                            row < Source::kRows && at.sequence < Source::kSequences;
        const int element = (at.sequence * Source::kRows + row) * Source::kRow + at.head * Source::kColumns + column;
        const uint16_t expected = inside ? source.values()[element] : uint16_t{0};
        const int chunk = (c / 8) ^ (r % 8);
        different += box[static_cast<size_t>(r * 64 + chunk * 8 + c % 8)] != expected;
      }
    }
    CAPTURE(at.column, at.head, at.row, at.sequence);
    CHECK(different == 0);
  }
}

// Catches: a copy that arrives although nobody has waited for it.
TEST_CASE("a bulk copy that is not waited for leaves poison, and the block may not end so") {
  Source source;
  std::vector<uint16_t> out(kBoxBytes / 2);
  const std::string text = complaint([&] {
    launch({"copy", 1, 64, kSharedBytes}, {}, copy_kernel, out.data(), tensor_map(source.tiled(), "copy"), 0, 0, 0, 0,
           source.values(), Fault::no_wait);
  });
  CHECK(text.find("1 bulk copies that nobody has waited for") != std::string::npos);
  for (const uint16_t x : out) REQUIRE(x == kPoison16);
}

// Catches: an error of the device that the host lets pass.
TEST_CASE("what a bulk copy or its barrier may not be throws and says what") {
  struct Case {
    Fault fault;
    const char* text;
  };
  for (const Case& c :
       {Case{Fault::no_fence, "for want of fence_barrier_init"}, Case{Fault::unaligned, "no multiple of 1024 bytes"},
        Case{Fault::few_bytes, "more bytes than it expects"},
        Case{Fault::many_bytes, "expects 2064 bytes, 2048 of them under way"},
        Case{Fault::arrived_twice, "more arrivals than the phase expects"},
        Case{Fault::written_over, "no mbarrier was initialised there, or it was written over"},
        Case{Fault::outside, "outside the block's shared memory"}}) {
    Source source;
    CHECK_THAT(complaint([&] { copied(source, {0, 0, 0, 0}, c.fault); }), ContainsSubstring(c.text));
  }
  TensorMap unset = {};
  uint16_t out = 0;
  CHECK_THAT(complaint([&] {
               launch({"copy", 1, 1, kSharedBytes}, {}, copy_kernel, &out, unset, 0, 0, 0, 0, &out, Fault::none);
             }),
             ContainsSubstring("that nothing has encoded"));
}

// Catches: an encoding that takes what the driver refuses, sizes and strides exchanged on the way to it.
TEST_CASE("a tensor map refuses what the hardware cannot address, and names it") {
  Source source;
  const TiledTensor good = source.tiled();
  CHECK_NOTHROW(tensor_map(good, "copy"));
  auto bad = good;
  bad.memory = source.values() + 1;
  CHECK_THROWS_WITH(tensor_map(bad, "copy"),
                    "copy: cuTensorMapEncodeTiled: CUresult 1, sizes 96x2x20x3, strides 192, 576, 11520 bytes");
  bad = good, bad.stride_bytes[1] = 584;
  CHECK_THROWS_AS(tensor_map(bad, "copy"), Error);
  bad = good, bad.stride_bytes[1] = 16;  // rows that lie in each other
  CHECK_THROWS_AS(tensor_map(bad, "copy"), Error);
  bad = good, bad.boxes[1] = 257;
  CHECK_THROWS_AS(tensor_map(bad, "copy"), Error);
  bad = good, bad.sizes[3] = 0;
  CHECK_THROWS_AS(tensor_map(bad, "copy"), Error);
}

// Catches: a phase that ends early or late, a parity taken for the other, a waiting thread that is not woken.
TEST_CASE("barriers hand the places of a ring from one warp to the others and back") {
  for (const cuda_host::Order order : cuda_host::kOrders) {
    cuda_host::set_order(order);
    for (const int sum : ring_sums()) REQUIRE(sum == 0 + 1 + 4 + 9 + 16 + 25 + 36);
  }
}

// Catches: an execution whose orders never let a warp run ahead of the one that it should have waited for.
TEST_CASE("a ring that lacks one of its waits fails in some order") {
  for (const bool full : {false, true}) {
    int failed = 0;
    for (const cuda_host::Order order : cuda_host::kOrders) {
      cuda_host::set_order(order);
      std::vector<int> sums;
      const std::string text = complaint([&] { sums = ring_sums(full, !full); });
      failed += !text.empty() || sums != std::vector<int>(64, 91);
    }
    CAPTURE(full);
    CHECK(failed > 0);
  }
}

TEST_CASE("waiting for a phase that cannot end throws and says what it lacks") {
  CHECK_THAT(complaint([] {
               launch({"stuck", 1, 32, 8}, {}, stuck_kernel);
             }),
             ContainsSubstring("thread 0 waits in mbarrier_wait") &&
                 ContainsSubstring("phase 0 of an mbarrier lacks 1 arrivals, expects 0 bytes"));
  CHECK_THAT(complaint([] {
               launch({"none", 1, 32, 8}, {}, no_barrier_kernel);
             }),
             ContainsSubstring("mbarrier_wait: no mbarrier was initialised there"));
}

// Catches: a lane's address taken for another lane's, matrices or halves of a register in another order, a store that
// lands before the lane that names the row has come.
TEST_CASE("stmatrix puts the pair that each lane holds where the ISA says") {
  for (const cuda_host::Order order : cuda_host::kOrders) {
    cuda_host::set_order(order);
    std::vector<uint16_t> out(256);
    launch({"stmatrix", 1, 32, 512}, {}, store_matrices_kernel, out.data(), int64_t{0});
    for (size_t i = 0; i < out.size(); ++i) REQUIRE(out[i] == i);
  }
  std::vector<uint16_t> out(256);
  CHECK_THAT(complaint([&] {
               launch({"unaligned", 1, 32, 528}, {}, store_matrices_kernel, out.data(), int64_t{8});
             }),
             ContainsSubstring("stmatrix: an address that is no multiple of 16 bytes"));
  CHECK_THAT(complaint([&] {
               launch({"outside", 1, 32, 512}, {}, store_matrices_kernel, out.data(), int64_t{16});
             }),
             ContainsSubstring("stmatrix: an address outside"));
}

}  // namespace dither
