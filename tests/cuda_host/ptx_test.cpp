// The host's twins of the PTX wrappers (kernels/cuda/ptx.h) against the tables of the PTX ISA, and asynchronous copies
// that arrive no sooner than a kernel may count on.
//
// Fragments of mma.m16n8k16 with BF16, as the ISA gives them; g = lane / 4, t = lane % 4, i = place in the fragment:
//   A, 8 values   row g for i in {0,1,4,5}, else g + 8;   column 2 t + i % 2, + 8 for i >= 4
//   B, 4 values   row 2 t + i % 2, + 8 for i >= 2;        column g
//   C, 4 values   row g for i < 2, else g + 8;            column 2 t + i % 2
#include "kernels/cuda/ptx.h"

#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/numerics/bf16.h"
#include "tests/catch.h"
#include "tests/cuda_host/execution.h"
#include "tests/kernels/tensors.h"

namespace dither {
namespace {

int lane_of_test() { return static_cast<int>(threadIdx.x); }

/// Values 0 to 255, value 64 m + 8 r + c in row r, column c of matrix m; rows lie in memory as 7 * (8 m + r) mod 32.
void matrices_kernel(uint32_t* out, bool transposed) {
  auto* rows = shared_memory<uint16_t>();
  const int lane = lane_of_test(), place = 7 * lane % 32 * 8;
  for (int c = 0; c < 8; ++c) rows[place + c] = static_cast<uint16_t>(8 * lane + c);
  uint32_t r[4];
  if (transposed) {
    ldmatrix_x4_trans(r, shared_address(rows + place));
  } else {
    ldmatrix_x4(r, shared_address(rows + place));
  }
  for (int j = 0; j < 4; ++j) out[4 * lane + j] = r[j];
}

void unaligned_kernel() {
  uint32_t r[4];
  ldmatrix_x4(r, shared_address(shared_memory<unsigned char>(8)));
}
void outside_kernel() {
  uint32_t r[4];
  ldmatrix_x4(r, shared_address(shared_memory<unsigned char>(512 - 8 * (lane_of_test() & 1))));
}
void unwritten_kernel(uint32_t* out) {  // without a barrier between writing and reading rows of others
  auto* rows = shared_memory<uint32_t>();
  uint32_t r[4];
  for (int i = 0; i < 4; ++i) rows[4 * lane_of_test() + i] = 1;
  ldmatrix_x4(r, shared_address(rows + 4 * ((lane_of_test() + 1) % 32)));
  for (int i = 0; i < 4; ++i) out[4 * lane_of_test() + i] = r[i];
}
void mixed_kernel() {
  uint32_t r[4] = {};
  float c[4] = {};
  if (lane_of_test() < 16) {
    ldmatrix_x4(r, shared_address(shared_memory<unsigned char>()));
  } else {
    mma_bf16(c, r, 0, 0);
  }
}

/// C [16,8] += A [16,16] B [16,8], fragments by the ISA's tables.
void product_kernel(float* c, const float* a, const float* b) {
  const int g = lane_of_test() / 4, t = lane_of_test() % 4;
  float fragment_a[8], fragment_b[4], fragment_c[4];
  for (int i = 0; i < 8; ++i) {
    const int row = i < 2 || (i >= 4 && i < 6) ? g : g + 8, column = 2 * t + (i & 1) + (i >= 4 ? 8 : 0);
    fragment_a[i] = a[16 * row + column];
  }
  for (int i = 0; i < 4; ++i) fragment_b[i] = b[8 * (2 * t + (i & 1) + (i >= 2 ? 8 : 0)) + g];
  for (int i = 0; i < 4; ++i) fragment_c[i] = c[8 * (i < 2 ? g : g + 8) + 2 * t + (i & 1)];
  uint32_t packed[4];
  for (int i = 0; i < 4; ++i) packed[i] = pack_bf16(fragment_a[2 * i], fragment_a[2 * i + 1]);
  mma_bf16(fragment_c, packed, pack_bf16(fragment_b[0], fragment_b[1]), pack_bf16(fragment_b[2], fragment_b[3]));
  for (int i = 0; i < 4; ++i) c[8 * (i < 2 ? g : g + 8) + 2 * t + (i & 1)] = fragment_c[i];
}

struct CopyCase {
  bool commit = true, wait = true, barrier = true;
  int bytes = 16;
};

/// Each thread copies 16 bytes to shared memory and reads what its neighbour copied.
void copies_kernel(uint32_t* out, const uint32_t* in, CopyCase how) {
  auto* words = shared_memory<uint32_t>();
  const int thread = lane_of_test(), next = (thread + 1) % static_cast<int>(blockDim.x);
  cp_async_16(words + 4 * thread, in + 4 * thread, how.bytes);
  if (how.commit) cp_async_commit();
  if (how.wait) cp_async_wait<0>();
  if (how.barrier) __syncthreads();
  for (int i = 0; i < 4; ++i) out[4 * thread + i] = words[4 * next + i];
}

/// Two groups; out: the first words of both after each wait. The source of the second changes while it is under way.
void groups_kernel(uint32_t* out, uint32_t* in) {
  auto* words = shared_memory<uint32_t>();
  for (int group = 0; group < 2; ++group) {
    cp_async_16(words + 4 * group, in + 4 * group, 16);
    cp_async_commit();
  }
  cp_async_wait<2>();
  out[0] = words[0], out[1] = words[4];
  cp_async_wait<1>();
  out[2] = words[0], out[3] = words[4];
  in[4] = 77;
  cp_async_wait<0>();
  out[4] = words[0], out[5] = words[4];
}

void unaligned_copy_kernel(const uint32_t* in) {
  cp_async_16(shared_memory<uint32_t>(), in + 1, 16);
  cp_async_commit();
  cp_async_wait<0>();
}

std::string complaint(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "";
}

bool says(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

constexpr unsigned kThreads = 64;
constexpr uint32_t kPoison = 0xFFFFFFFFu;

std::vector<uint32_t> copied(CopyCase how) {
  alignas(16) uint32_t in[4 * kThreads];
  for (uint32_t i = 0; i < 4 * kThreads; ++i) in[i] = i;
  std::vector<uint32_t> out(4 * kThreads);
  const uint32_t* from = in;
  launch({"copies", 1, kThreads, 16 * kThreads}, {}, copies_kernel, out.data(), from, how);
  return out;
}

}  // namespace

// Catches: a lane's row taken for another lane's, matrices in another order, the transposed form in the place of the
// plain one, halves of a register exchanged.
TEST_CASE("ldmatrix hands each lane the pair of every matrix that the ISA names") {
  for (const bool transposed : {false, true}) {
    for (const cuda_host::Order order : cuda_host::kOrders) {
      cuda_host::set_order(order);
      std::vector<uint32_t> out(4 * 32);
      launch({"matrices", 1, 32, 512}, {}, matrices_kernel, out.data(), transposed);
      for (uint32_t lane = 0; lane < 32; ++lane) {
        for (uint32_t m = 0; m < 4; ++m) {
          const uint32_t g = lane / 4, t = lane % 4;
          const uint32_t first = transposed ? 64 * m + 8 * (2 * t) + g : 64 * m + 8 * g + 2 * t;
          const uint32_t second = transposed ? first + 8 : first + 1;
          REQUIRE(out[4 * lane + m] == (first | second << 16));
        }
      }
    }
  }
}

// Catches: a fragment laid out in another way, rows and columns of B exchanged, a C that is overwritten, products
// rounded to BF16, k from 8 on left out.
TEST_CASE("mma multiplies the matrices whose fragments the ISA names") {
  const TestTensor a = integer_tensor(DType::fp32, 16 * 16, 1, 100), b = integer_tensor(DType::fp32, 16 * 8, 2, 100);
  TestTensor c = integer_tensor(DType::fp32, 16 * 8, 3, 100), expected(DType::fp32, 16 * 8);
  for (int64_t m = 0; m < 16; ++m) {
    for (int64_t n = 0; n < 8; ++n) {
      double sum = c.get(8 * m + n);
      for (int64_t k = 0; k < 16; ++k) sum += a.get(16 * m + k) * b.get(8 * k + n);
      expected.set(8 * m + n, sum);
    }
  }
  launch({"product", 1, 32}, {}, product_kernel, c.fp32(), a.fp32(), b.fp32());
  REQUIRE(same_bits(c, expected));
}

// Catches: twins more patient than the device.
TEST_CASE("ldmatrix refuses what the device refuses, and sees rows that are not written yet as they are") {
  cuda_host::set_order({});
  CHECK(says(complaint([] { launch({"unaligned", 1, 32, 512}, {}, unaligned_kernel); }), "no multiple of 16"));
  CHECK(says(complaint([] { launch({"outside", 1, 32, 512}, {}, outside_kernel); }), "outside the block's shared"));
  CHECK(says(complaint([] { launch({"mixed", 1, 32, 512}, {}, mixed_kernel); }), "meet in ldmatrix and in mma"));
  std::vector<uint32_t> out(4 * 32);
  CHECK(says(complaint([&] { launch({"few", 1, 16, 512}, {}, matrices_kernel, out.data(), false); }), "fewer than 32"));
  launch({"unwritten", 1, 32, 512}, {}, unwritten_kernel, out.data());
  CHECK(out[0] == kPoison);
}

// Catches: zeros that are missing behind a part, a whole row read where nothing of it exists.
TEST_CASE("an asynchronous copy brings the bytes asked for, and zeros behind them") {
  for (const cuda_host::Order order : cuda_host::kOrders) {
    cuda_host::set_order(order);
    for (const int bytes : {0, 4, 8, 12, 16}) {
      const std::vector<uint32_t> out = copied({.bytes = bytes});
      for (uint32_t i = 0; i < 4 * kThreads; ++i) {
        const uint32_t source = (i + 4) % (4 * kThreads);
        REQUIRE(out[i] == (static_cast<int>(i % 4) < bytes / 4 ? source : 0));
      }
    }
  }
}

// Catches: copies that arrive when they start, or that wait for a group which was never closed.
TEST_CASE("a copy that is not waited for, or not committed, is noticed at the thread's end") {
  for (const cuda_host::Order order : cuda_host::kOrders) {
    cuda_host::set_order(order);
    const char* text = "ends with 1 asynchronous copies";
    CHECK(says(complaint([] { copied({.wait = false}); }), text));
    CHECK(says(complaint([] { copied({.commit = false}); }), text));
  }
  alignas(16) static const uint32_t in[8] = {};
  const uint32_t* from = in;
  CHECK(says(complaint([&] {
               launch({"unaligned", 1, 1, 16}, {}, unaligned_copy_kernel, from);
             }),
             "no multiple of 16"));
}

TEST_CASE("what another thread copied is poison until a barrier, in some order") {
  bool poison = false;
  for (const cuda_host::Order order : cuda_host::kOrders) {
    cuda_host::set_order(order);
    for (const uint32_t word : copied({.barrier = false})) poison |= word == kPoison;
  }
  CHECK(poison);
}

// Catches: a wait for all groups in the place of all but the latest, a source read at the start.
TEST_CASE("a wait finishes all groups but the latest, and the source is read then") {
  alignas(16) uint32_t in[8] = {5, 0, 0, 0, 6, 0, 0, 0};
  uint32_t out[6] = {}, *to = out, *from = in;
  launch({"groups", 1, 1, 32}, {}, groups_kernel, to, from);
  CHECK(out[0] == kPoison);
  CHECK(out[1] == kPoison);
  CHECK(out[2] == 5);
  CHECK(out[3] == kPoison);
  CHECK(out[4] == 5);
  CHECK(out[5] == 77);
}

// Catches: exchanged halves, truncation, ties away from zero; a subnormal 2^x; a sum of two roundings.
TEST_CASE("packing, powers of two and fused sums round as the device's") {
  const TestTensor x = normal_tensor(DType::fp32, 1000, 1);
  for (int64_t i = 0; i + 1 < x.elements(); ++i) {
    const float low = x.fp32()[i], high = x.fp32()[i + 1];
    REQUIRE(pack_bf16(low, high) == (uint32_t{round_nearest(low).bits} | uint32_t{round_nearest(high).bits} << 16));
    const float power = std::exp2(low * 30);  // ISA: at most 2 ulp off
    REQUIRE(std::fabs(exp2_approx(low * 30) - power) <= 2 * 0x1p-23f * power);
  }
  CHECK(pack_bf16(1.00390625f, -1.01171875f) == 0xBF823F80u);  // ties to even, down and up
  CHECK(exp2_approx(-std::numeric_limits<float>::infinity()) == 0);
  CHECK(exp2_approx(-127.0f) == 0);
  CHECK(exp2_approx(-126.0f) == 0x1p-126f);
  CHECK(std::isnan(exp2_approx(std::numeric_limits<float>::quiet_NaN())));
  CHECK(fma_rn(1 + 0x1p-23f, 1 - 0x1p-23f, -1.0f) == -0x1p-46f);
}

}  // namespace dither
