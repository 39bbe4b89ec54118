// Embedding: every result is a sum of stored values in a known order, so every expected bit is known.
#include <vector>

#include "base/error.h"
#include "kernels/backend.h"
#include "tests/kernels/operation_test.h"
#include "tests/kernels/tensors.h"
#include "tests/kernels/test_backend.h"

namespace dither {
namespace {

struct Case {
  int64_t B, T, rows;
  int C;
  int64_t N() const { return B * T; }
};

Case any_case() {
  return GENERATE(Case{1, 1, 1, 8}, Case{1, 2, 5, 24}, Case{5, 13, 300, 72}, Case{2, 50, 40, 136}, Case{1, 257, 9, 64});
}

/// Every third token is row 0; the last row never appears (where there are at least two).
std::vector<int32_t> tokens_of(const Case& c) {
  std::vector<int32_t> tokens(static_cast<size_t>(c.N()));
  for (size_t n = 0; n < tokens.size(); ++n) {
    const uint32_t word = random_word(test_noise(9), static_cast<int64_t>(n));
    tokens[n] = n % 3 == 0 || c.rows < 2 ? 0 : static_cast<int32_t>(word % static_cast<uint64_t>(c.rows - 1));
  }
  return tokens;
}

TestTensor workspace_of(const EmbeddingBackward& op) { return TestTensor(DType::fp32, op.workspace_bytes() / 4); }

// Catches: BF16 addition of FP32 tables, positions that run on over sequences, a half vector at C = 8, 24, 72, 136.
OPERATION_TEST(embedding_forward, "adds token and position row in FP32 and rounds once") {
  const DType stream = GENERATE(DType::bf16, DType::fp32), table = GENERATE(DType::bf16, DType::fp32);
  const bool positions = GENERATE(false, true);
  const Case c = any_case();
  const std::vector<int32_t> tokens = tokens_of(c);
  const TestTensor token_table = normal_tensor(table, c.rows * c.C, 1);
  const TestTensor position_table = normal_tensor(table, c.T * c.C, 2);
  TestTensor y(stream, c.N() * c.C), expected(stream, c.N() * c.C);
  for (int64_t n = 0; n < c.N(); ++n) {
    for (int i = 0; i < c.C; ++i) {
      const auto token = static_cast<float>(token_table.get(tokens[static_cast<size_t>(n)] * c.C + i));
      const auto position = static_cast<float>(position_table.get(n % c.T * c.C + i));
      expected.set(n * c.C + i, positions ? token + position : token);
    }
  }
  test_backend(GENERATE(1, 3))
      ->embedding_forward({.y = y,
                           .tokens = tokens.data(),
                           .token_table = token_table,
                           .position_table = positions ? ConstView(position_table) : ConstView(),
                           .N = c.N(),
                           .T = c.T,
                           .rows = c.rows,
                           .C = c.C},
                          {});
  REQUIRE(same_bits(y, expected));
  REQUIRE(y.guard_intact());
}

struct Gradients {
  TestTensor tokens, positions;
};

/// The definition: FP32 sums in rising n, added to what `before` holds (null: to nothing), rounded once.
Gradients expected_gradients(const Case& c, DType type, const TestTensor& dy, const std::vector<int32_t>& tokens,
                             const TestTensor* before) {
  std::vector<float> rows(static_cast<size_t>(c.rows * c.C)), positions(static_cast<size_t>(c.T * c.C));
  for (int64_t n = 0; n < c.N(); ++n) {
    for (int i = 0; i < c.C; ++i) {
      const auto g = static_cast<float>(dy.get(n * c.C + i));
      rows[static_cast<size_t>(tokens[static_cast<size_t>(n)] * c.C + i)] += g;
      positions[static_cast<size_t>(n % c.T * c.C + i)] += g;
    }
  }
  Gradients expected{TestTensor(type, c.rows * c.C), TestTensor(type, c.T * c.C)};
  for (int64_t i = 0; i < c.rows * c.C; ++i) {
    const float sum = rows[static_cast<size_t>(i)];
    expected.tokens.set(i, before != nullptr ? before->fp32()[i] + sum : sum);
  }
  for (int64_t i = 0; i < c.T * c.C; ++i) expected.positions.set(i, positions[static_cast<size_t>(i)]);
  return expected;
}

// Catches: sums in BF16, in another order than rising n, a sort that is not stable, a row without tokens that keeps
// what memory held, a last row left out, bits that change with the threads.
OPERATION_TEST(embedding_backward, "sums each row's tokens in rising n and leaves exact zeros elsewhere") {
  const DType stream = GENERATE(DType::bf16, DType::fp32), table = GENERATE(DType::bf16, DType::fp32);
  const Case c = any_case();
  const std::vector<int32_t> tokens = tokens_of(c);
  const TestTensor dy = normal_tensor(stream, c.N() * c.C, 3);
  const Gradients expected = expected_gradients(c, table, dy, tokens, nullptr);
  for (const int threads : {1, 2, 3, 4}) {
    Gradients found{TestTensor(table, c.rows * c.C), TestTensor(table, c.T * c.C)};
    EmbeddingBackward op{.d_token_table = found.tokens,
                         .d_position_table = found.positions,
                         .dy = dy,
                         .tokens = tokens.data(),
                         .N = c.N(),
                         .T = c.T,
                         .rows = c.rows,
                         .C = c.C,
                         .accumulate = false,
                         .workspace = nullptr};
    TestTensor workspace = workspace_of(op);
    op.workspace = workspace.fp32();
    test_backend(threads)->embedding_backward(op, {});
    REQUIRE(same_bits(found.tokens, expected.tokens));
    REQUIRE(same_bits(found.positions, expected.positions));
    REQUIRE(found.tokens.guard_intact());
    REQUIRE(found.positions.guard_intact());
    REQUIRE(workspace.guard_intact());
    for (int i = 0; c.rows > 1 && i < c.C; ++i) REQUIRE(found.tokens.get((c.rows - 1) * c.C + i) == 0);
  }
}

// Catches: accumulation that starts the row's sum from what it holds (another order), rows without tokens changed.
TEST_CASE("embedding_backward: accumulating adds the finished sum to what the table's gradient holds") {
  const DType stream = GENERATE(DType::bf16, DType::fp32);
  const Case c = any_case();
  const std::vector<int32_t> tokens = tokens_of(c);
  const TestTensor dy = normal_tensor(stream, c.N() * c.C, 4), before = normal_tensor(DType::fp32, c.rows * c.C, 5);
  TestTensor found = before;
  EmbeddingBackward op{.d_token_table = found,
                       .d_position_table = {},
                       .dy = dy,
                       .tokens = tokens.data(),
                       .N = c.N(),
                       .T = c.T,
                       .rows = c.rows,
                       .C = c.C,
                       .accumulate = true,
                       .workspace = nullptr};
  TestTensor workspace = workspace_of(op);
  op.workspace = workspace.fp32();
  test_backend(2)->embedding_backward(op, {});
  REQUIRE(same_bits(found, expected_gradients(c, DType::fp32, dy, tokens, &before).tokens));
}

// Catches: a demand that was forgotten or names another value than it tests.
TEST_CASE("embedding: what cannot be computed is refused with its reason") {
  TestTensor y(DType::bf16, 64), table(DType::bf16, 64), wide(DType::fp32, 64);
  const std::vector<int32_t> tokens = {0, 1};
  const EmbeddingForward forward{
      .y = y, .tokens = tokens.data(), .token_table = table, .position_table = {}, .N = 2, .T = 2, .rows = 4, .C = 16};
  REQUIRE_NOTHROW(forward.check());
  auto op = forward;
  op.T = 3;
  REQUIRE_THROWS_WITH(op.check(), "embedding_forward: T is 3, needs a divisor of N");
  op = forward, op.C = 12;
  REQUIRE_THROWS_WITH(op.check(), "embedding_forward: C is 12, needs a multiple of 8");
  op = forward, op.rows = 0;
  REQUIRE_THROWS_WITH(op.check(), "embedding_forward: rows is 0, needs 1 to 2147483647");
  op = forward, op.position_table = wide;
  REQUIRE_THROWS_WITH(op.check(), "embedding_forward: position_table is fp32, needs bf16");
  op = forward, op.y = table;
  REQUIRE_THROWS_WITH(op.check(),
                      "embedding_forward: the distance in bytes from y to token_table is 0, "
                      "needs tensors that do not overlap");
  EmbeddingBackward backward{.d_token_table = table,
                             .d_position_table = {},
                             .dy = y,
                             .tokens = tokens.data(),
                             .N = 2,
                             .T = 2,
                             .rows = 4,
                             .C = 16,
                             .accumulate = true,
                             .workspace = nullptr};
  REQUIRE_THROWS_WITH(backward.check(), "embedding_backward: workspace is 0, needs memory of workspace_bytes()");
  backward.workspace = wide.fp32();
  REQUIRE_THROWS_WITH(backward.check(), "embedding_backward: d_token_table with accumulate is bf16, needs fp32");
  backward.accumulate = false;
  REQUIRE_NOTHROW(backward.check());
}

}  // namespace
}  // namespace dither
