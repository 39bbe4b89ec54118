// Token and position embedding on the CPU.
//
//   forward   y[n] = RN(token_table[tokens[n]] + position_table[n mod T])
//   backward  the tokens are sorted by row (a counting sort, so that equal tokens stay in rising n), then every row of
//             the table sums its own: rows are disjoint, no two threads meet, and the order is that of n
//
// Workspace of backward, int32: starts [rows + 1], positions [N]; row v owns positions[starts[v] .. starts[v + 1]).
#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector.h"

namespace dither {

namespace {

constexpr int64_t kTokensAPart = 32;  // of some 2 KB each: longer than handing them out
constexpr int64_t kRowsAPart = 128;   // of the tables' gradients; common tokens spread over the parts
constexpr int kSpan = 4;              // vectors of a row summed at once: they stay in registers over all its tokens

template <class Y, class W>
void forward_typed(const EmbeddingForward& op, int threads) {
  parallel_ranges(threads, op.N, kTokensAPart, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t token = op.tokens[n];
      DITHER_ASSERT(token >= 0 && token < op.rows);  // the loader refuses others
      Y* y = data_of<Y>(op.y) + n * op.C;
      const W* row = data_of<W>(op.token_table) + token * op.C;
      if (op.position_table) {
        const W* position = data_of<W>(op.position_table) + n % op.T * op.C;
        sweep(op.C, [&](int64_t c, auto part) { store(y + c, load(row + c, part) + load(position + c, part), part); });
      } else {
        sweep(op.C, [&](int64_t c, auto part) { store(y + c, load(row + c, part), part); });
      }
    }
  });
}

struct SortedTokens {
  const int32_t* starts;     // [rows + 1]
  const int32_t* positions;  // [N]
};

SortedTokens sort_tokens(const EmbeddingBackward& op) {
  auto* starts = static_cast<int32_t*>(op.workspace);
  int32_t* positions = starts + op.rows + 1;
  std::memset(starts, 0, sizeof(int32_t) * static_cast<size_t>(op.rows + 1));
  for (int64_t n = 0; n < op.N; ++n) {
    DITHER_ASSERT(op.tokens[n] >= 0 && op.tokens[n] < op.rows);
    ++starts[op.tokens[n]];
  }
  int32_t sum = 0;
  for (int64_t v = 0; v <= op.rows; ++v) starts[v] = sum += starts[v];  // where each row ends
  for (int64_t n = op.N - 1; n >= 0; --n) {                             // from behind: ends become starts
    positions[--starts[op.tokens[n]]] = static_cast<int32_t>(n);
  }
  return {starts, positions};
}

/// to[c] = (to[c] if kept) + sum_k dy[at(k), c], k rising, over `width` vectors at once.
template <int width, class Y, class G, class At, class P>
void sum_columns(G* to, const Y* dy, int64_t stride, int64_t count, const At& at, bool keep, P part) {
  Lanes sums[width] = {};
  for (int64_t k = 0; k < count; ++k) {
    const Y* row = dy + at(k) * stride;
    for (int i = 0; i < width; ++i) sums[i] += load(row + i * kLanes, part);
  }
  for (int i = 0; i < width; ++i) {
    G* place = to + i * kLanes;
    store(place, keep ? load(place, part) + sums[i] : sums[i], part);
  }
}

/// One row of a table's gradient: the sum of `count` rows of dy.
template <class Y, class G, class At>
void sum_rows(G* to, const Y* dy, int C, int64_t count, const At& at, bool keep) {
  int c = 0;
  for (; c + kSpan * kLanes <= C; c += kSpan * kLanes) sum_columns<kSpan>(to + c, dy + c, C, count, at, keep, Whole{});
  for (; c + kLanes <= C; c += kLanes) sum_columns<1>(to + c, dy + c, C, count, at, keep, Whole{});
  if (c < C) sum_columns<1>(to + c, dy + c, C, count, at, keep, Half{});
}

template <class Y, class G>
void tokens_backward(const EmbeddingBackward& op, int threads) {
  const SortedTokens sorted = sort_tokens(op);
  const Y* dy = data_of<Y>(op.dy);
  parallel_ranges(threads, op.rows, kRowsAPart, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      const int32_t* positions = sorted.positions + sorted.starts[v];
      const int64_t count = sorted.starts[v + 1] - sorted.starts[v];
      if (count == 0 && op.accumulate) continue;
      G* to = data_of<G>(op.d_token_table) + v * op.C;
      sum_rows(
          to, dy, op.C, count, [=](int64_t k) { return int64_t{positions[k]}; }, op.accumulate);
    }
  });
}

template <class Y, class G>
void positions_backward(const EmbeddingBackward& op, int threads) {
  const Y* dy = data_of<Y>(op.dy);
  parallel_ranges(threads, op.T, kTokensAPart, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      G* to = data_of<G>(op.d_position_table) + t * op.C;
      sum_rows(
          to, dy, op.C, op.N / op.T, [&](int64_t k) { return k * op.T + t; }, false);
    }
  });
}

}  // namespace

void CpuBackend::embedding_forward(const EmbeddingForward& op, Stream) {
  op.check();
  with_type(op.y.type, [&](auto y) {
    with_type(op.token_table.type, [&](auto table) { forward_typed<decltype(y), decltype(table)>(op, threads_); });
  });
}

void CpuBackend::embedding_backward(const EmbeddingBackward& op, Stream) {
  op.check();
  with_type(op.dy.type, [&](auto dy) {
    with_type(op.d_token_table.type, [&](auto table) { tokens_backward<decltype(dy), decltype(table)>(op, threads_); });
    if (!op.d_position_table) return;
    with_type(op.d_position_table.type,
              [&](auto table) { positions_backward<decltype(dy), decltype(table)>(op, threads_); });
  });
}

}  // namespace dither
