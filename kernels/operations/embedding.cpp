// What the embedding demands, on every backend. Token ids lie in the backend's memory, so the loader checks them.
#include "kernels/operations/embedding.h"

#include <limits>

#include "kernels/operations/demand.h"

namespace dither {

namespace {

void demand_sizes(const char* op, int64_t N, int64_t T, int64_t rows, int C) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();  // backward keeps positions and rows in 32 bits
  demand(N >= 1 && N <= kMost, op, "N", N, "1 to 2147483647");
  demand(T >= 1 && N % T == 0, op, "T", T, "a divisor of N");
  demand(rows >= 1 && rows <= kMost, op, "rows", rows, "1 to 2147483647");
  demand(C >= 8 && C % 8 == 0, op, "C", C, "a multiple of 8");
}

}  // namespace

void EmbeddingForward::check() const {
  const char* op = "embedding_forward";
  demand_sizes(op, N, T, rows, C);
  demand(tokens != nullptr, op, "tokens", 0, "N token ids");
  demand_float(op, "y", y);
  demand_float(op, "token_table", token_table);
  if (position_table) demand_type(op, "position_table", position_table, token_table.type);
  demand_apart(op, "the distance in bytes from y to token_table", y, N * C, token_table, rows * C);
  demand_apart(op, "the distance in bytes from y to position_table", y, N * C, position_table, T * C);
}

void EmbeddingBackward::check() const {
  const char* op = "embedding_backward";
  demand_sizes(op, N, T, rows, C);
  demand(tokens != nullptr, op, "tokens", 0, "N token ids");
  demand(workspace != nullptr, op, "workspace", 0, "memory of workspace_bytes()");
  demand_float(op, "dy", dy);
  demand_float(op, "d_token_table", d_token_table);
  if (accumulate) demand_type(op, "d_token_table with accumulate", d_token_table, DType::fp32);
  demand_apart(op, "the distance in bytes from d_token_table to dy", d_token_table, rows * C, dy, N * C);
  demand_apart(op, "the distance in bytes from d_position_table to dy", d_position_table, T * C, dy, N * C);
}

}  // namespace dither
