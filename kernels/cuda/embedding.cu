// Token and position embedding on the GPU.
//
//   forward   y[n] = RN(token_table[tokens[n]] + position_table[n mod T])
//   backward  d_token_table[v] = sum of dy[n] over tokens[n] = v;  d_position_table[t] = sum over n mod T = t
//
// Shapes  y, dy [N,C]; token_table, d_token_table [rows,C]; position_table, d_position_table [T,C]; tokens int32 [N].
//         C % 8 == 0.
// Backward sorts the tokens by row, so that rows sum without meeting: counts by integer atomics, a scan that turns them
//         into ends, a place for each position by an atomic that moves its row's end down to its start. Only which of
//         its row's places a position gets depends on the atomics' order; a last pass puts each row in rising order.
// Launch  forward and sums: one warp a row, block (32, 4); the sums take 256 channels a block of the grid's y.
//         Scan: one block of 512 threads, a sum a warp in shared memory; no other kernel has any.
// Order   every sum in rising n, in FP32, rounded once, then added to what the table holds if it accumulates: the CPU's
//         bits.
// Floor   forward 4 bytes an element (BF16). Backward: dy once for each table, each table once; a token as frequent as
//         " the" (one in 25) is a chain of N / 25 adds, with kInFlight rows on their way. Not yet measured.
// Memory  workspace of backward, int32: starts [rows + 1], positions [N]; row v owns positions[starts[v]] up to, not
//         including, positions[starts[v + 1]].
#include <bit>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/vector.h"

namespace dither {
namespace {

constexpr int kWarps = 4;               // rows of a block
constexpr int kSweep = 8 * kWarpLanes;  // channels that a warp covers at once: one eight a lane
constexpr int kThreads = 256;           // of a block where a thread has one token or one count
constexpr int kScanThreads = 512;       // one block: 50,305 counts are 13 turns
constexpr int kScanEach = 8;            // counts of a thread in a turn
constexpr int kInFlight = 8;            // independent loads under way in a thread whose next step waits for them

template <class Y, class W>
__global__ void __launch_bounds__(kWarpLanes* kWarps) embedding_forward_kernel(const EmbeddingForward op) {
  const int64_t n = int64_t{blockIdx.x} * kWarps + threadIdx.y;
  if (n >= op.N) return;
  const W* token = static_cast<const W*>(op.token_table.data) + int64_t{op.tokens[n]} * op.C;
  const W* position = static_cast<const W*>(op.position_table.data);
  if (position != nullptr) position += static_cast<int64_t>(uint32_t(n) % uint32_t(op.T)) * op.C;  // N, T: 31 bits
  Y* y = static_cast<Y*>(op.y.data) + n * op.C;
  for (int c = static_cast<int>(threadIdx.x) * 8; c < op.C; c += kSweep) {
    float x[8];
    load8(token + c, x);
    if (position != nullptr) {
      float p[8];
      load8(position + c, p);
      for (int i = 0; i < 8; ++i) x[i] += p[i];
    }
    store8(y + c, x);
  }
}

__global__ void __launch_bounds__(kThreads) clear_kernel(int32_t* counts, int64_t size) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < size) counts[i] = 0;
}

__global__ void __launch_bounds__(kThreads) count_kernel(int32_t* counts, const int32_t* tokens, int64_t N) {
  const int64_t n = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (n < N) atomicAdd(counts + tokens[n], 1);
}

/// values[i] = sum of values[0..i], in place, by one block.
__global__ void __launch_bounds__(kScanThreads) scan_kernel(int32_t* values, int64_t size) {
  constexpr int kScanWarps = kScanThreads / kWarpLanes;
  int32_t* warp_totals = shared_memory<int32_t>();  // [kScanWarps]
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  int32_t before = 0;  // the sum of all turns done
  for (int64_t begin = 0; begin < size; begin += kScanThreads * kScanEach) {
    const int64_t own = begin + threadIdx.x * kScanEach;
    int32_t sums[kScanEach];
    DITHER_UNROLL
    for (int i = 0; i < kScanEach; ++i) {
      sums[i] = (own + i < size ? values[own + i] : 0) + (i > 0 ? sums[i - 1] : 0);
    }
    const int32_t through = warp_scan(sums[kScanEach - 1]);
    if (threadIdx.x % kWarpLanes == kWarpLanes - 1) warp_totals[warp] = through;
    __syncthreads();
    int32_t offset = before + through - sums[kScanEach - 1];
    for (int i = 0; i < kScanWarps; ++i) {
      if (i < warp) offset += warp_totals[i];
      before += warp_totals[i];
    }
    __syncthreads();  // the totals have been read: the next turn may write its own
    for (int i = 0; i < kScanEach; ++i) {
      if (own + i < size) values[own + i] = offset + sums[i];
    }
  }
}

/// Each position into one of its row's places; what was the row's end is its start when all are placed.
__global__ void __launch_bounds__(kThreads)
    place_kernel(int32_t* ends, int32_t* positions, const int32_t* tokens, int64_t N) {
  const int64_t n = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (n < N) positions[atomicAdd(ends + tokens[n], -1) - 1] = static_cast<int32_t>(n);
}

/// The `count` positions of row v once more, in rising order: found among all tokens, 32 at a time.
__device__ __forceinline__ void find_again(int32_t* own, int32_t count, const int32_t* tokens, int64_t N, int64_t v) {
  const unsigned below = (1u << threadIdx.x) - 1;  // the lanes with smaller n
  int32_t found = 0;
  for (int64_t begin = 0; begin < N && found < count; begin += kInFlight * kWarpLanes) {
    const int64_t first = begin + threadIdx.x;
    bool equal[kInFlight];
    DITHER_UNROLL
    for (int i = 0; i < kInFlight; ++i) {
      const int64_t n = first + i * kWarpLanes;
      equal[i] = n < N && tokens[n] == v;
    }
    DITHER_UNROLL
    for (int i = 0; i < kInFlight; ++i) {
      const unsigned lanes = __ballot_sync(kAllLanes, equal[i]);
      if (equal[i]) own[found + std::popcount(lanes & below)] = static_cast<int32_t>(first + i * kWarpLanes);
      found += std::popcount(lanes);
    }
  }
}

/// Puts the positions of each row in rising order, one warp a row: up to 32 by their ranks, more by another look at the
/// tokens, which needs no memory; fewer than N / 32 rows have so many.
__global__ void __launch_bounds__(kWarpLanes* kWarps)
    order_kernel(const int32_t* starts, int32_t* positions, const int32_t* tokens, int64_t N, int64_t rows) {
  const int64_t v = int64_t{blockIdx.x} * kWarps + threadIdx.y;
  if (v >= rows) return;
  const int32_t count = starts[v + 1] - starts[v];
  int32_t* own = positions + starts[v];
  if (count < 2) return;
  if (count > kWarpLanes) return find_again(own, count, tokens, N, v);
  const int32_t lane = static_cast<int32_t>(threadIdx.x);
  const int32_t n = lane < count ? own[lane] : 0;
  int32_t rank = 0;
  for (int32_t i = 0; i < count; ++i) rank += __shfl_sync(kAllLanes, n, i) < n ? 1 : 0;
  if (lane < count) own[rank] = n;  // each lane has read its own before it gave it to the others
}

/// to[c] = (to[c] if kept) + sum_k dy[at(k), c] of eight channels, k rising. `to` and `dy` point at the first of them.
template <class Y, class G, class At>
__device__ __forceinline__ void sum_rows(G* to, const Y* dy, int64_t C, int64_t count, const At& at, bool keep) {
  float sum[8] = {};
  int64_t k = 0;
  for (; k + kInFlight <= count; k += kInFlight) {
    float x[kInFlight][8];
    DITHER_UNROLL
    for (int i = 0; i < kInFlight; ++i) load8(dy + at(k + i) * C, x[i]);
    DITHER_UNROLL
    for (int i = 0; i < kInFlight; ++i) {
      for (int j = 0; j < 8; ++j) sum[j] += x[i][j];
    }
  }
  for (; k < count; ++k) {
    float x[8];
    load8(dy + at(k) * C, x);
    for (int j = 0; j < 8; ++j) sum[j] += x[j];
  }
  if (keep) {
    float held[8];
    load8(to, held);
    for (int j = 0; j < 8; ++j) sum[j] = held[j] + sum[j];
  }
  store8(to, sum);
}

/// The eight channels of a thread, where a block of the grid's y takes kSweep of them.
__device__ __forceinline__ int64_t first_channel() { return (int64_t{blockIdx.y} * kWarpLanes + threadIdx.x) * 8; }

template <class Y, class G>
__global__ void __launch_bounds__(kWarpLanes* kWarps) token_sums_kernel(const EmbeddingBackward op) {
  const int64_t v = int64_t{blockIdx.x} * kWarps + threadIdx.y, c = first_channel();
  if (v >= op.rows || c >= op.C) return;
  const int32_t* starts = static_cast<const int32_t*>(op.workspace);
  const int32_t* positions = starts + op.rows + 1 + starts[v];
  const int64_t count = starts[v + 1] - starts[v];
  if (count == 0 && op.accumulate) return;
  sum_rows(
      static_cast<G*>(op.d_token_table.data) + v * op.C + c, static_cast<const Y*>(op.dy.data) + c, op.C, count,
      [=](int64_t k) { return int64_t{positions[k]}; }, op.accumulate);
}

template <class Y, class G>
__global__ void __launch_bounds__(kWarpLanes* kWarps) position_sums_kernel(const EmbeddingBackward op) {
  const int64_t t = int64_t{blockIdx.x} * kWarps + threadIdx.y, c = first_channel(), T = op.T;
  if (t >= T || c >= op.C) return;
  sum_rows(
      static_cast<G*>(op.d_position_table.data) + t * op.C + c, static_cast<const Y*>(op.dy.data) + c, op.C, op.N / T,
      [=](int64_t k) { return k * T + t; }, false);
}

/// The tokens sorted by row, in op.workspace.
void sort_tokens(const EmbeddingBackward& op, Stream stream) {
  const char* name = "embedding_backward";
  auto* starts = static_cast<int32_t*>(op.workspace);
  int32_t* positions = starts + op.rows + 1;
  const unsigned token_blocks = blocks_of(op.N, kThreads);
  launch({name, blocks_of(op.rows + 1, kThreads), kThreads}, stream, clear_kernel, starts, op.rows + 1);
  launch({name, token_blocks, kThreads}, stream, count_kernel, starts, op.tokens, op.N);
  launch({name, 1, kScanThreads, kScanThreads / kWarpLanes * 4}, stream, scan_kernel, starts, op.rows + 1);
  launch({name, token_blocks, kThreads}, stream, place_kernel, starts, positions, op.tokens, op.N);
  launch({name, blocks_of(op.rows, kWarps), dim3(kWarpLanes, kWarps)}, stream, order_kernel, starts, positions,
         op.tokens, op.N, op.rows);
}

}  // namespace

namespace cuda {

void embedding_forward(const EmbeddingForward& op, Stream stream) {
  op.check();
  with_element(op.y.type, [&](auto y) {
    with_element(op.token_table.type, [&](auto w) {
      launch({"embedding_forward", blocks_of(op.N, kWarps), dim3(kWarpLanes, kWarps)}, stream,
             embedding_forward_kernel<decltype(y), decltype(w)>, op);
    });
  });
}

void embedding_backward(const EmbeddingBackward& op, Stream stream) {
  op.check();
  sort_tokens(op, stream);
  const char* name = "embedding_backward";
  const dim3 block(kWarpLanes, kWarps);
  with_element(op.dy.type, [&](auto y) {
    using Y = decltype(y);
    with_element(op.d_token_table.type, [&](auto g) {
      launch({name, dim3(blocks_of(op.rows, kWarps), blocks_of(op.C, kSweep)), block}, stream,
             token_sums_kernel<Y, decltype(g)>, op);
    });
    if (!op.d_position_table) return;
    with_element(op.d_position_table.type, [&](auto g) {
      launch({name, dim3(blocks_of(op.T, kWarps), blocks_of(op.C, kSweep)), block}, stream,
             position_sums_kernel<Y, decltype(g)>, op);
    });
  });
}

}  // namespace cuda
}  // namespace dither
