// The host's twin of Hopper's products of warpgroups (kernels/cuda/ptx_hopper.h) against the tables of the PTX ISA.
//
// C of m64nNk16, place i of thread t: row 16 (t / 32) + t % 32 / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2 (t % 4) + i
// % 2. A in registers, 8 values: row as in C with i / 2 % 2, column 2 (t % 4) + i % 2 + 8 (i / 4).
#include <array>
#include <cmath>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx_hopper.h"
#include "tests/catch.h"
#include "tests/cuda_host/execution.h"
#include "tests/kernels/tensors.h"

namespace dither {
namespace {

using Catch::Matchers::ContainsSubstring;

constexpr int kThreads = 128, kColumns = 128;
constexpr int kRowsA = 64, kRowsB = 128;
constexpr int kBoxA = kRowsA * 128, kBoxB = kRowsB * 128;  // bytes of a box
constexpr int64_t kSharedBytes = 1024 + 2 * kBoxA + 2 * kBoxB + 8;

int thread_of_test() { return static_cast<int>(threadIdx.x); }
int row_of(int i) { return 16 * (thread_of_test() / 32) + thread_of_test() % 32 / 4 + 8 * (i / 2 % 2); }

enum class Fault {
  none,
  early_look,       // at C, before the wait
  no_wait,          // the block ends with products under way
  no_commit,        // the group is never closed
  no_fence,         // registers that no fence has named
  old_fence,        // A changed behind its fence
  touched_a,        // A changed before the wait
  touched_c,        // C changed before the wait
  ordinary_store,   // an operand written by a thread
  operand_refetch,  // an operand fetched again before the wait
  one_warp_less,    // a warp that leaves a product out
  another_column,   // a warp whose descriptor differs
  no_swizzle,       // in the descriptor
};

struct Case {
  bool n_major = false, accumulate = true;
  int step = 0;     // which sixteen of the inner index
  int columns = 8;  // of C, in eights: 8 or 16 where n_major
  Fault fault = Fault::none;
};

/// Where the operands lie, and the barrier of their copies.
struct Operands {
  SharedAddress a, b, barrier;
  Operands() {
    const SharedAddress all = shared_address(shared_memory<unsigned char>());
    a = (all + 1023) / 1024 * 1024;
    b = a + 2 * kBoxA;
    barrier = b + 2 * kBoxB;
  }
  void fetch(const TensorMap& map_a, const TensorMap& map_b, int column) const {
    mbarrier_expect_bytes(barrier, 2 * kBoxA + 2 * kBoxB);
    for (unsigned box = 0; box < 2; ++box) {
      tma_load(a + box * kBoxA, &map_a, barrier, column + static_cast<int>(box) * 64, 0, 0, 0);
      tma_load(b + box * kBoxB, &map_b, barrier, column + static_cast<int>(box) * 64, 0, 0, 0);
    }
  }
};

template <int N>
void start(float (&c)[N][4], uint32_t (&a)[4], const Operands& at, const Case& how) {
  const auto column = static_cast<unsigned>(how.step / 4 * kBoxA + how.step % 4 * 32);
  const auto column_b = static_cast<unsigned>(how.step / 4 * kBoxB + how.step % 4 * 32);
  if (how.fault != Fault::no_fence) wgmma_fence(c, a);
  if (how.fault == Fault::old_fence) a[1] ^= 1;
  uint64_t descriptor = how.n_major ? n_major_descriptor(at.b + static_cast<unsigned>(how.step * 16 * 128), kBoxB)
                                    : k_major_descriptor(at.b + column_b);
  if (how.fault == Fault::no_swizzle) descriptor &= ~(uint64_t{3} << 62);
  if (how.fault == Fault::another_column && thread_of_test() >= 96) descriptor += 2;
  if (how.fault == Fault::one_warp_less && thread_of_test() >= 96) return;
  if (how.n_major) return wgmma_n_major(c, a, descriptor);
  if constexpr (N == 16) wgmma_k_major(c, k_major_descriptor(at.a + column), descriptor, how.accumulate);
}

template <int N>
void wait(float (&c)[N][4], const Case& how) {
  if (how.fault != Fault::no_commit) wgmma_commit();
  if (how.fault != Fault::no_wait && how.fault != Fault::early_look) wgmma_wait<0>(c);
}

/// One product on C = 1, then C to out [64, 8 N]; A in registers is that of the step's columns.
template <int N>
void product_kernel(float* out, const Bf16* a_values, TensorMap map_a, TensorMap map_b, Case how) {
  const Operands at;
  if (thread_of_test() == 0) {
    mbarrier_init(at.barrier, 1);
    fence_barrier_init();
    at.fetch(map_a, map_b, 0);
  }
  __syncthreads();
  mbarrier_wait(at.barrier, 0);
  float c[N][4];
  for (auto& four : c) {
    for (float& x : four) x = 1;
  }
  uint32_t a[4];
  for (int r = 0; r < 4; ++r) {
    const int i = 2 * r, column = 16 * how.step + 2 * (thread_of_test() % 4) + 8 * (i / 4);
    const Bf16* pair = a_values + row_of(i) * kColumns + column;
    a[r] = pair[0].bits | uint32_t{pair[1].bits} << 16;
  }
  if (how.fault == Fault::ordinary_store && thread_of_test() == 5) {
    *reinterpret_cast<uint16_t*>(at.b + 16) = 0x4000;  // NOLINT: chunk 1 of row 0
  }
  __syncthreads();
  start(c, a, at, how);
  if (how.fault == Fault::touched_a) a[2] ^= 1;
  if (how.fault == Fault::touched_c) c[0][0] = 2;
  if (how.fault == Fault::operand_refetch) {
    __syncthreads();
    if (thread_of_test() == 0) at.fetch(map_a, map_b, 1);
    mbarrier_wait(at.barrier, 1);
  }
  wait(c, how);
  for (int i = 0; i < 4 * N; ++i) {
    const int column = 8 * (i / 4) + 2 * (thread_of_test() % 4) + i % 2;
    out[row_of(i) * 8 * N + column] = c[i / 4][i % 4];
  }
  if (how.fault == Fault::early_look) wgmma_wait<0>(c);
}

/// Two groups: the first sum is there after the first wait, the second one, on two products, only after the second.
void groups_kernel(float* out, TensorMap map_a, TensorMap map_b) {
  const Operands at;
  if (thread_of_test() == 0) {
    mbarrier_init(at.barrier, 1);
    fence_barrier_init();
    at.fetch(map_a, map_b, 0);
  }
  __syncthreads();
  mbarrier_wait(at.barrier, 0);
  float c[16][4] = {}, d[16][4] = {};
  wgmma_fence(c, d);
  wgmma_k_major(c, k_major_descriptor(at.a), k_major_descriptor(at.b), false);
  wgmma_commit();
  for (unsigned i = 0; i < 2; ++i) wgmma_k_major(d, k_major_descriptor(at.a), k_major_descriptor(at.b), i > 0);
  wgmma_commit();
  wgmma_wait<1>(c);
  float* own = out + 3 * thread_of_test();
  own[0] = c[3][1];
  own[1] = d[3][1];
  wgmma_wait<0>(d);
  own[2] = d[3][1];
}

struct Factors {
  TestTensor a = integer_tensor(DType::bf16, kRowsA* kColumns, 1, 4);
  TestTensor b = integer_tensor(DType::bf16, kRowsB* kColumns, 2, 8);
  static TensorMap map_of(const TestTensor& t, int rows) {
    const int64_t all = int64_t{rows} * kColumns * 2;
    return tensor_map({.memory = t.bf16(),
                       .sizes = {kColumns, 1, rows, 1},
                       .stride_bytes = {kColumns * 2, kColumns * 2, all},
                       .boxes = {1, rows, 1}},
                      "product");
  }
  /// C by the definition, in integers.
  double expected(const Case& how, int m, int n) const {
    double sum = how.accumulate ? 1 : 0;
    for (int k = 16 * how.step; k < 16 * how.step + 16; ++k) {
      sum += a.get(m * kColumns + k) * (how.n_major ? b.get(k * kColumns + n) : b.get(n * kColumns + k));
    }
    return sum;
  }
};

std::vector<float> product(const Factors& f, const Case& how) {
  std::vector<float> out(static_cast<size_t>(kRowsA * 8 * how.columns));
  const auto kernel = how.columns == 16 ? product_kernel<16> : product_kernel<8>;
  launch({"product", 1, kThreads, kSharedBytes}, {}, kernel, out.data(), f.a.bf16(), Factors::map_of(f.a, kRowsA),
         Factors::map_of(f.b, kRowsB), how);
  return out;
}

int nans(const std::vector<float>& values) {
  int count = 0;
  for (const float x : values) count += std::isnan(x);
  return count;
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

// Catches: a field of the descriptor read at another place, offsets of the two forms exchanged, a swizzle that ignores
// where the columns begin, rows of A of another warp, fragments in another order, C not added or added when it should
// not be.
TEST_CASE("a warpgroup's product is that of the matrices that its descriptors and registers name") {
  const Factors f;
  std::vector<Case> cases;
  for (int step = 0; step < 8; ++step) {
    cases.push_back({.n_major = false, .accumulate = step % 2 == 0, .step = step, .columns = 16});
    cases.push_back({.n_major = true, .step = step, .columns = step % 2 == 0 ? 16 : 8});
  }
  for (size_t i = 0; i < cases.size(); ++i) {
    cuda_host::set_order(cuda_host::kOrders[i % std::size(cuda_host::kOrders)]);
    const std::vector<float> c = product(f, cases[i]);
    int different = 0;
    for (int m = 0; m < kRowsA; ++m) {
      for (int n = 0; n < 8 * cases[i].columns; ++n) {
        different += c[static_cast<size_t>(m * 8 * cases[i].columns + n)] != f.expected(cases[i], m, n);
      }
    }
    CAPTURE(cases[i].n_major, cases[i].step, cases[i].columns);
    REQUIRE(different == 0);
  }
}

// Catches: results that are there before they are waited for, operands that are looked at once only, ordinary stores
// that a product sees.
TEST_CASE("what changes under a product in flight, and what it must not see yet, is NaN") {
  const Factors f;
  const Case rows{.n_major = false, .columns = 16}, weights{.n_major = true, .columns = 16};
  const auto with = [](Case how, Fault fault) {
    how.fault = fault;
    return how;
  };
  REQUIRE(nans(product(f, rows)) == 0);
  CHECK(nans(product(f, with(rows, Fault::early_look))) == kRowsA * 128);
  CHECK(nans(product(f, with(weights, Fault::touched_a))) == 128 * kRowsA / 2);  // a2: the rows below 8 of each warp
  CHECK(nans(product(f, with(rows, Fault::touched_c))) == kRowsA * 128);
  CHECK(nans(product(f, with(rows, Fault::operand_refetch))) > kRowsA * 128 / 2);
  CHECK(nans(product(f, with(rows, Fault::ordinary_store))) == kRowsA);  // row n = 0 of B: one column of C
}

// Catches: an error of the device that the host lets pass.
TEST_CASE("products that the device would not compute throw and say why") {
  const Factors f;
  struct Wrong {
    Fault fault;
    const char* text;
  };
  for (const Wrong& w :
       {Wrong{Fault::no_wait, "has products that it has not waited for"},
        Wrong{Fault::no_commit, "registers of a product that it does not wait for"},
        Wrong{Fault::no_fence, "no wgmma_fence has named"}, Wrong{Fault::old_fence, "no wgmma_fence has named"},
        Wrong{Fault::one_warp_less, "has not taken part in all products of its warpgroup"},
        Wrong{Fault::another_column, "warps of a warpgroup differ in their descriptors"},
        Wrong{Fault::no_swizzle, "without the 128-byte swizzle"}}) {
    const Case how{.n_major = true, .columns = 16, .fault = w.fault};
    CHECK_THAT(complaint([&] { product(f, how); }), ContainsSubstring(w.text));
  }
}

// Catches: a wait that finishes one group too many or too few, products on one C that start from its old value.
TEST_CASE("products arrive group by group, and add up on the C that they share") {
  const Factors f;
  std::vector<float> out(3 * kThreads);
  launch({"groups", 1, kThreads, kSharedBytes}, {}, groups_kernel, out.data(), Factors::map_of(f.a, kRowsA),
         Factors::map_of(f.b, kRowsB));
  for (int t = 0; t < kThreads; ++t) {
    const auto expected =
        static_cast<float>(f.expected({.accumulate = false}, 16 * (t / 32) + t % 32 / 4, 24 + 2 * (t % 4) + 1));
    const float* own = out.data() + 3 * t;
    CHECK(own[0] == expected);
    CHECK(std::isnan(own[1]));
    CHECK(own[2] == 2 * expected);
  }
}

}  // namespace dither
