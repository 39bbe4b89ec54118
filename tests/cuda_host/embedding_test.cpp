// Token and position embedding: the CUDA kernels, run on the host in every order of their threads, against the CPU, bit
// for bit: every sum has the CPU's order.
#include <cstring>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/kernels.h"
#include "tests/catch.h"
#include "tests/cuda_host/execution.h"
#include "tests/kernels/tensors.h"

namespace dither {
namespace {

struct Case {
  int64_t B, T, rows;
  int C;
  int64_t N() const { return B * T; }
};
constexpr Case kCases[] = {{1, 1, 1, 8},     {1, 3, 5, 24},   {3, 11, 300, 64}, {65, 1, 1, 136},
                           {2, 50, 40, 768}, {1, 5, 9, 1032}, {1, 3, 4, 4104}};

/// Every third token is row 0, which becomes more than a warp's worth from N = 97 on; the last row never appears.
std::vector<int32_t> tokens_of(const Case& c) {
  std::vector<int32_t> tokens(static_cast<size_t>(c.N()));
  for (size_t n = 0; n < tokens.size(); ++n) {
    const uint32_t word = random_word(test_noise(9), static_cast<int64_t>(n));
    tokens[n] = n % 3 == 0 || c.rows < 2 ? 0 : static_cast<int32_t>(word % static_cast<uint64_t>(c.rows - 1));
  }
  return tokens;
}

struct Gradients {
  TestTensor tokens, positions, workspace;
  bool guards_intact() const { return tokens.guard_intact() && positions.guard_intact() && workspace.guard_intact(); }
};

EmbeddingBackward backward_of(const Case& c, Gradients& g, const TestTensor& dy, const std::vector<int32_t>& tokens) {
  EmbeddingBackward op{.d_token_table = g.tokens,
                       .d_position_table = g.positions,
                       .dy = dy,
                       .tokens = tokens.data(),
                       .N = c.N(),
                       .T = c.T,
                       .rows = c.rows,
                       .C = c.C,
                       .accumulate = false,
                       .workspace = nullptr};
  g.workspace = TestTensor(DType::fp32, op.workspace_bytes() / 4);
  op.workspace = g.workspace.fp32();
  return op;
}

Gradients gradients(const Case& c, DType token_type, DType position_type) {
  return {TestTensor(token_type, c.rows * c.C), TestTensor(position_type, c.T * c.C), TestTensor(DType::fp32, 0)};
}

/// Both in every order: the tables' gradients, and the sorted tokens that the contract puts in the workspace.
void compare_backward(const Case& c, DType stream, DType token_type, DType position_type) {
  const std::vector<int32_t> tokens = tokens_of(c);
  const TestTensor dy = normal_tensor(stream, c.N() * c.C, 3);
  Gradients expected = gradients(c, token_type, position_type);
  make_cpu_backend(2)->embedding_backward(backward_of(c, expected, dy, tokens), {});
  for (const cuda_host::Order order : cuda_host::kOrders) {
    cuda_host::set_order(order);
    Gradients found = gradients(c, token_type, position_type);
    cuda::embedding_backward(backward_of(c, found, dy, tokens), {});
    CAPTURE(c.N(), c.T, c.rows, c.C, stream, token_type, position_type, order.kind, order.seed);
    REQUIRE(same_bits(found.workspace, expected.workspace));
    REQUIRE(same_bits(found.tokens, expected.tokens));
    REQUIRE(same_bits(found.positions, expected.positions));
    REQUIRE(found.guards_intact());
  }
}

}  // namespace

// Catches: sums in BF16, positions that run on over sequences, rows or channels left out at the edges, a table of
// another type read as this one.
TEST_CASE("embedding, forward: the bits of the CPU") {
  for (const Case& c : kCases) {
    const std::vector<int32_t> tokens = tokens_of(c);
    for (const DType stream : {DType::bf16, DType::fp32}) {
      for (const DType table : {DType::bf16, DType::fp32}) {
        const TestTensor token_table = normal_tensor(table, c.rows * c.C, 1);
        const TestTensor position_table = normal_tensor(table, c.T * c.C, 2);
        for (const bool positions : {false, true}) {
          TestTensor expected(stream, c.N() * c.C);
          EmbeddingForward op{.y = expected,
                              .tokens = tokens.data(),
                              .token_table = token_table,
                              .position_table = positions ? ConstView(position_table) : ConstView(),
                              .N = c.N(),
                              .T = c.T,
                              .rows = c.rows,
                              .C = c.C};
          make_cpu_backend(2)->embedding_forward(op, {});
          for (const cuda_host::Order order : cuda_host::kOrders) {
            cuda_host::set_order(order);
            TestTensor found(stream, c.N() * c.C);
            op.y = found;
            cuda::embedding_forward(op, {});
            CAPTURE(c.N(), c.T, c.rows, c.C, stream, table, positions, order.kind);
            REQUIRE(same_bits(found, expected));
            REQUIRE(found.guard_intact());
          }
        }
      }
    }
  }
}

// Catches: places left in the order of the atomics, a row of more than 32 tokens ordered as a short one, sums in BF16
// or in another order than rising n, rows without tokens that keep poison, a last row left out, the loads in flight of
// a sum's end.
TEST_CASE("embedding, backward: the bits of the CPU, and its sorted tokens") {
  for (const Case& c : kCases) {
    for (const DType stream : {DType::bf16, DType::fp32}) {
      for (const DType token_type : {DType::bf16, DType::fp32}) {
        for (const DType position_type : {DType::bf16, DType::fp32}) {
          compare_backward(c, stream, token_type, position_type);
        }
      }
    }
  }
}

// Catches: a scan that reads the warps' totals before its barrier, one that forgets the turns before (4,096 counts
// each) or the warps before, a search for a frequent token that ends after its first turn (256 tokens). Not the barrier
// at the end of a turn: here no thread gets a turn ahead of another.
TEST_CASE("embedding, backward: more rows than the scan takes at once, more tokens than a search sees at once") {
  compare_backward({2, 300, 8300, 8}, DType::bf16, DType::fp32, DType::fp32);
}

// Catches: a sum that starts from what the table holds (another order), rows without tokens changed, accumulation of
// the position table.
TEST_CASE("embedding, backward: accumulating adds the finished sum, positions or not") {
  for (const Case& c : kCases) {
    const std::vector<int32_t> tokens = tokens_of(c);
    const TestTensor dy = normal_tensor(DType::bf16, c.N() * c.C, 4),
                     before = normal_tensor(DType::fp32, c.rows * c.C, 5);
    for (const bool positions : {false, true}) {
      const auto run = [&](auto&& backward) {
        Gradients g = gradients(c, DType::fp32, DType::fp32);
        g.tokens = TestTensor(before);
        EmbeddingBackward op = backward_of(c, g, dy, tokens);
        op.accumulate = true;
        if (!positions) op.d_position_table = {};
        backward(op);
        return g;
      };
      const Gradients expected =
          run([](const EmbeddingBackward& op) { make_cpu_backend(2)->embedding_backward(op, {}); });
      for (const cuda_host::Order order : cuda_host::kOrders) {
        cuda_host::set_order(order);
        const Gradients found = run([](const EmbeddingBackward& op) { cuda::embedding_backward(op, {}); });
        CAPTURE(c.N(), c.rows, c.C, positions, order.kind);
        REQUIRE(same_bits(found.tokens, expected.tokens));
        REQUIRE(same_bits(found.positions, expected.positions));
        REQUIRE(found.guards_intact());
      }
    }
  }
}

}  // namespace dither
