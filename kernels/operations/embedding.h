// Token and position embedding.
//   y[n,c] = RN(token_table[tokens[n],c] + position_table[n mod T,c])
#pragma once

#include "kernels/view.h"

namespace dither {

struct EmbeddingForward {
  View y;                    // [N,C] out  the residual stream, BF16 or FP32
  const int32_t* tokens;     // [N]        each below rows
  ConstView token_table;     // [rows,C]   BF16 or FP32
  ConstView position_table;  // [T,C]      the type of token_table; absent with rotary positions
  int64_t N;                 // tokens in this call, at least 1
  int64_t T;                 // sequence length; N is a multiple of it
  int64_t rows;              // of the token table, padding included
  int C;                     // channels, a multiple of 8
  void check() const;        // throws Error; every backend calls it first
  int64_t bytes() const;     // work.h
};

/// d_token_table[v,c] = sum of dy[n,c] over tokens[n] = v in rising n;  d_position_table[t,c] = sum over n mod T = t.
/// Sums in FP32, rounded once.
struct EmbeddingBackward {
  View d_token_table;     // [rows,C] out  BF16 or FP32
  View d_position_table;  // [T,C]    out  BF16 or FP32; absent with rotary positions
  ConstView dy;           // [N,C]         gradient of the residual stream
  const int32_t* tokens;  // [N]
  int64_t N, T, rows;
  int C;
  bool accumulate;  // d_token_table (FP32 only) keeps what it holds and gets the sum added: tied embeddings
  void* workspace;  // workspace_bytes()
  int64_t workspace_bytes() const { return 4 * (rows + 1 + N); }  // tokens sorted by row: starts, then positions
  void check() const;
  int64_t bytes() const;  // work.h
};

}  // namespace dither
