// Causal attention, backward, on the tensor cores: BF16 activations, FP32 sums. FP32 activations take the plain path.
//
//   statistics   L = lse log2(e),  delta = sum_d d_out out                    for each query
//   both below   s = q . k,  p = 2^(c s - L), c = scale log2(e);  dp = d_out . v,  ds = p (dp - delta)
//   keys         dv = sum_t RN(p) d_out,  dk = scale sum_t RN(ds) q           a block owns 64 keys of one KV head
//   queries      dq = scale sum_u RN(ds) k                                    a block owns 128 queries of one head
//
// Scores are computed twice, once for the keys and once for the queries: 7 products in the place of 5, and no sum that
// blocks share, so that every bit is the same each time without atomics or a second pass over memory.
//
// Shapes  qkv, d_qkv BF16 [B,T,H+2Hkv,D]; out, d_out BF16 [B,T,H,D]; workspace FP32 [B,H,2,T'], T' = T rounded up to 4:
//         L, then delta.
// Launch  statistics: 16 lanes a row of D, block 128. keys: block 128, four warps of 16 keys each; tiles of 64 queries
//         of all heads that read the KV head, the next under way meanwhile; grid B * Hkv * ceil(T / 64), first keys,
//         which most queries see, first. queries: block 128, four warps of 32 queries each, tiles of 32 keys; grid B *
//         H * ceil(T / 128), last queries first. 768 D bytes of shared memory (and 1 KiB): two blocks an SM.
// Order   heads of a group and queries rise for dk and dv, keys for dq: bits depend on T, D and H / Hkv alone.
// Tails   rows behind T are zeros on the way in, statistics too: their p is 1 and their ds 0, against zeros.
#include "kernels/cuda/attention_plain.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"

namespace dither {
namespace {

constexpr int kRowLanes = 16;  // of a row of statistics: D / 8 of them have a part of it
constexpr int kKeyTile = 64;   // of the kernel of keys: its own
constexpr int kKeyQueries = 64;
constexpr int kQueryTile = 128;  // of the kernel of queries: its own
constexpr int kQueryKeys = 32;
constexpr int kQueryGroups = 2;  // of 16 queries: a warp's
constexpr int kWarpQueries = 16 * kQueryGroups;

constexpr int64_t keys_shared_bytes(int D) {
  return int64_t{2 * kKeyTile + 4 * kKeyQueries} * D * 2 + 4 * kKeyQueries * 4;
}
constexpr int64_t queries_shared_bytes(int D) { return int64_t{2 * kQueryTile + 4 * kQueryKeys} * D * 2; }

__host__ __device__ constexpr int64_t padded(int64_t T) { return (T + 3) / 4 * 4; }

/// L of one head's queries, T' of them, with delta behind.
__device__ __forceinline__ float* statistics_of(const AttentionBackward& op, int64_t b, int h) {
  return static_cast<float*>(op.workspace) + (b * op.H + h) * 2 * padded(op.T);
}

__global__ void __launch_bounds__(kAttentionThreads) attention_statistics_kernel(const AttentionBackward op) {
  const int64_t thread = int64_t{blockIdx.x} * kAttentionThreads + threadIdx.x;
  const int64_t row = thread / kRowLanes, rows = op.B * op.T * op.H;  // [B,T,H]
  const int d = static_cast<int>(thread % kRowLanes) * 8;
  float sum = 0;
  if (row < rows && d < op.D) {
    float x[8], y[8];
    load8(static_cast<const Bf16*>(op.out.data) + row * op.D + d, x);
    load8(static_cast<const Bf16*>(op.d_out.data) + row * op.D + d, y);
    DITHER_UNROLL
    for (int i = 0; i < 8; ++i) sum += x[i] * y[i];
  }
  DITHER_UNROLL
  for (int lanes = kRowLanes / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
  if (row >= rows || d != 0) return;
  const int h = static_cast<int>(row % op.H);
  const int64_t t = row / op.H % op.T, b = row / op.H / op.T;
  float* statistics = statistics_of(op, b, h);
  statistics[t] = op.lse[(b * op.H + h) * op.T + t] * kLog2E;
  statistics[padded(op.T) + t] = sum;
}

/// What a lane holds of its warp's sixteen keys.
template <int D>
struct KeyRows {
  float dk[1][D / 8][4] = {};
  float dv[1][D / 8][4] = {};
};

/// What belongs to 64 queries, in shared memory.
struct QueryTile {
  const Bf16* queries;  // [64,D]
  const Bf16* d_out;    // [64,D]
  const float* roots;   // [64] L
  const float* deltas;  // [64]
};

/// p[0] of 16 keys and 64 queries from their scores. `ahead`: the first query minus the first key.
template <int N>
__device__ __forceinline__ void weigh_keys(float (&p)[1][N][4], const float* roots, int ahead, float c) {
  DITHER_UNROLL
  for (int i = 0; i < 4 * N; ++i) {
    float& x = p[0][i / 4][i % 4];
    x = exp2_approx(fma_rn(x, c, -roots[i / 4 * 8 + pair_of_lane() + i % 2]));
  }
  if (ahead >= 16) return;
  const int unseen = group_of_lane() - pair_of_lane() - ahead;  // this lane's columns before it, in its first row
  DITHER_UNROLL
  for (int i = 0; i < 4 * N; ++i) {
    if (i / 4 * 8 + i % 2 < unseen + i / 2 % 2 * 8) p[0][i / 4][i % 4] = 0;
  }
}

/// A warp's keys meet one tile of queries; everything lies as [key, query].
template <int D>
__device__ __forceinline__ void meet_queries(KeyRows<D>& rows, const Bf16* keys, const Bf16* values, int row,
                                             const QueryTile& tile, int ahead, float c) {
  constexpr int N = kKeyQueries / 8;
  float p[1][N][4] = {}, ds[1][N][4] = {};
  uint32_t weights[1][N / 2][4];
  add_scores<D>(p, keys, row, tile.queries);
  weigh_keys(p, tile.roots, ahead, c);
  pack_weights(weights, p);
  add_weighted<D>(rows.dv, weights, tile.d_out);
  add_scores<D>(ds, values, row, tile.d_out);
  DITHER_UNROLL
  for (int i = 0; i < 4 * N; ++i) {
    float& x = ds[0][i / 4][i % 4];
    x = p[0][i / 4][i % 4] * (x - tile.deltas[i / 4 * 8 + pair_of_lane() + i % 2]);
  }
  pack_weights(weights, ds);
  add_weighted<D>(rows.dk, weights, tile.queries);
}

/// Starts the copies of 64 queries' statistics, zeros from `count` on: `from` is the first L, delta `behind` further.
__device__ __forceinline__ void load_statistics(float* to, const float* from, int64_t behind, int count) {
  constexpr int kChunks = kKeyQueries / 4;
  const int chunk = static_cast<int>(threadIdx.x) % kChunks, which = static_cast<int>(threadIdx.x) / kChunks;
  if (which >= 2) return;
  const int left = 4 * (count - 4 * chunk);
  cp_async_16(to + which * kKeyQueries + 4 * chunk, from + which * behind + 4 * chunk,
              left < 0 ? 0 : (left < 16 ? left : 16));
}

/// The tile of 64 queries that a step of the kernel of keys meets: heads of the group rise, queries within them.
struct QueryStep {
  int head, query;
};

template <int D>
__device__ __forceinline__ void load_queries(const AttentionBackward& op, int b, QueryStep at, Bf16* tile,
                                             float* statistics) {
  const int left = static_cast<int>(op.T) - at.query;
  const int64_t stride = int64_t{op.H + 2 * op.Hkv} * D, token = b * op.T + at.query;
  load_tile<D, kKeyQueries>(tile, static_cast<const Bf16*>(op.qkv.data) + token * stride + at.head * D, stride, left);
  load_tile<D, kKeyQueries>(tile + kKeyQueries * D,
                            static_cast<const Bf16*>(op.d_out.data) + (token * op.H + at.head) * D, int64_t{op.H} * D,
                            left);
  load_statistics(statistics, statistics_of(op, b, at.head) + at.query, padded(op.T), left);
  cp_async_commit();
}

template <int D>
__device__ __forceinline__ void store_key_gradients(const AttentionBackward& op, const KeyRows<D>& rows, Bf16* keys,
                                                    Bf16* values, int first) {
  const BlockPlace place = place_of_block(op.T, kKeyTile, op.Hkv);
  const int64_t stride = int64_t{op.H + 2 * op.Hkv} * D;
  const int count = static_cast<int>(op.T) - first;
  Bf16* to = static_cast<Bf16*>(op.d_qkv.data) + (place.b * op.T + first) * stride + (op.H + place.head) * D;
  const float scale[1][2] = {{op.scale, op.scale}}, one[1][2] = {{1, 1}};
  store_rows<D>(to, stride, count, keys, rows.dk, scale);
  store_rows<D>(to + op.Hkv * D, stride, count, values, rows.dv, one);
}

template <int D>
__global__ void __launch_bounds__(kAttentionThreads, 2)
    attention_keys_kernel(const AttentionBackward op, const float c) {
  constexpr int kTile = 2 * kKeyQueries * D;
  Bf16* keys = shared_memory<Bf16>();   // [64,D]
  Bf16* values = keys + kKeyTile * D;   // [64,D]
  Bf16* tiles = values + kKeyTile * D;  // two of [64 queries, D], [64 rows of d_out, D]
  float* statistics = shared_memory<float>(int64_t{2} * (2 * kKeyTile * D + 2 * kTile));  // two of [64] L, [64] delta
  const BlockPlace place = place_of_block(op.T, kKeyTile, op.Hkv);
  const int T = static_cast<int>(op.T), first = place.tile * kKeyTile, group = op.H / op.Hkv;
  const int64_t stride = int64_t{op.H + 2 * op.Hkv} * D;
  const Bf16* own = static_cast<const Bf16*>(op.qkv.data) + (place.b * op.T + first) * stride + (op.H + place.head) * D;
  load_tile<D, kKeyTile>(keys, own, stride, T - first);
  load_tile<D, kKeyTile>(values, own + op.Hkv * D, stride, T - first);
  QueryStep at{place.head * group, first};
  load_queries<D>(op, place.b, at, tiles, statistics);

  const int row = warp_of_thread() * 16, end = at.head + group;
  KeyRows<D> rows;
  for (int buffer = 0; at.head < end; buffer = 1 - buffer) {
    cp_async_wait<0>();
    __syncthreads();  // the tile is there for all, and all are done with the one before it, which the next replaces
    const bool more = at.query + kKeyQueries < T;
    const QueryStep next{more ? at.head : at.head + 1, more ? at.query + kKeyQueries : first};
    const int other = 1 - buffer;
    if (next.head < end) {
      load_queries<D>(op, place.b, next, tiles + other * kTile, statistics + other * 2 * kKeyQueries);
    }
    const Bf16* tile = tiles + buffer * kTile;
    const float* roots = statistics + buffer * 2 * kKeyQueries;
    if (first + row < T) {
      meet_queries<D>(rows, keys, values, row, {tile, tile + kKeyQueries * D, roots, roots + kKeyQueries},
                      at.query - first - row, c);
    }
    at = next;
  }
  if (first + row < T) store_key_gradients<D>(op, rows, keys + row * D, values + row * D, first + row);
}

/// What a lane holds of its warp's 32 queries.
template <int D>
struct QueryRows {
  float dq[kQueryGroups][D / 8][4] = {};
  float root[kQueryGroups][2];  // L
  float delta[kQueryGroups][2];

  /// `from`: L of the warp's first query; zeros from `count` on.
  __device__ __forceinline__ QueryRows(const float* from, int64_t behind, int count) {
    DITHER_UNROLL
    for (int i = 0; i < 2 * kQueryGroups; ++i) {
      const int row = 8 * i + group_of_lane();
      root[i / 2][i % 2] = row < count ? from[row] : 0.0f;
      delta[i / 2][i % 2] = row < count ? from[behind + row] : 0.0f;
    }
  }
};

/// A warp's queries meet one tile of 32 keys. `ahead`: its first query minus the first key.
template <int D>
__device__ __forceinline__ void meet_keys(QueryRows<D>& rows, const Bf16* queries, const Bf16* d_out, const Bf16* keys,
                                          const Bf16* values, int row, int ahead, float c) {
  constexpr int N = kQueryKeys / 8;
  float s[kQueryGroups][N][4] = {}, dp[kQueryGroups][N][4] = {};
  add_scores<D>(s, queries, row, keys);
  add_scores<D>(dp, d_out, row, values);
  const int last = ahead + group_of_lane() - pair_of_lane();  // column seen in this lane's first row, from its first
  DITHER_UNROLL
  for (int i = 0; i < kQueryGroups * N * 4; ++i) {
    const int m = i / (4 * N), n = i / 4 % N, half = i / 2 % 2, odd = i % 2;
    float& x = s[m][n][2 * half + odd];
    x = exp2_approx(fma_rn(x, c, -rows.root[m][half])) * (dp[m][n][2 * half + odd] - rows.delta[m][half]);
    if (8 * n + odd > last + 16 * m + 8 * half) x = 0;
  }
  uint32_t weights[kQueryGroups][N / 2][4];
  pack_weights(weights, s);
  add_weighted<D>(rows.dq, weights, keys);
}

template <int D>
__global__ void __launch_bounds__(kAttentionThreads, 2)
    attention_queries_kernel(const AttentionBackward op, const float c) {
  constexpr int kTile = 2 * kQueryKeys * D;
  Bf16* queries = shared_memory<Bf16>();   // [128,D]
  Bf16* d_out = queries + kQueryTile * D;  // [128,D]
  Bf16* tiles = d_out + kQueryTile * D;    // two of [32 keys, D], [32 values, D]
  const BlockPlace place = place_of_block(op.T, kQueryTile, op.H);
  const int T = static_cast<int>(op.T), first = (place.tiles - 1 - place.tile) * kQueryTile;  // the most work first
  const int64_t stride = int64_t{op.H + 2 * op.Hkv} * D;
  const Bf16* sequence = static_cast<const Bf16*>(op.qkv.data) + place.b * op.T * stride;
  const Bf16* keys = sequence + (op.H + place.head / (op.H / op.Hkv)) * D;
  const auto load_keys = [&](int key) {
    Bf16* to = tiles + key / kQueryKeys % 2 * kTile;
    load_tile<D, kQueryKeys>(to, keys + key * stride, stride, T - key);
    load_tile<D, kQueryKeys>(to + kQueryKeys * D, keys + key * stride + op.Hkv * D, stride, T - key);
    cp_async_commit();
  };
  load_tile<D, kQueryTile>(queries, sequence + first * stride + place.head * D, stride, T - first);
  load_tile<D, kQueryTile>(d_out,
                           static_cast<const Bf16*>(op.d_out.data) + ((place.b * op.T + first) * op.H + place.head) * D,
                           int64_t{op.H} * D, T - first);
  load_keys(0);

  const int row = warp_of_thread() * kWarpQueries, seen = T < first + kQueryTile ? T : first + kQueryTile;
  QueryRows<D> rows(statistics_of(op, place.b, place.head) + first + row, padded(op.T), T - first - row);
  for (int key = 0; key < seen; key += kQueryKeys) {
    cp_async_wait<0>();
    __syncthreads();  // the tile is there for all, and all are done with the one before it, which the next replaces
    if (key + kQueryKeys < seen) load_keys(key + kQueryKeys);
    const Bf16* tile = tiles + key / kQueryKeys % 2 * kTile;
    if (key <= first + row && first + row < T) {
      meet_keys<D>(rows, queries, d_out, tile, tile + kQueryKeys * D, row, first + row - key, c);
    }
  }
  if (first + row >= T) return;
  const BlockPlace again = place_of_block(op.T, kQueryTile, op.H);
  float scale[kQueryGroups][2];
  DITHER_UNROLL
  for (int i = 0; i < 2 * kQueryGroups; ++i) scale[i / 2][i % 2] = op.scale;
  store_rows<D>(static_cast<Bf16*>(op.d_qkv.data) + (again.b * op.T + first + row) * stride + again.head * D, stride,
                T - first - row, queries + row * D, rows.dq, scale);
}

}  // namespace

namespace cuda {

void attention_backward(const AttentionBackward& op, Stream stream) {
  op.check();
  if (op.qkv.type == DType::fp32) return plain_attention_backward(op, stream);
  const char* name = "attention_backward";
  const float c = op.scale * kLog2E;
  launch({name, blocks_of(op.B * op.T * op.H * kRowLanes, kAttentionThreads), kAttentionThreads}, stream,
         attention_statistics_kernel, op);
  with_head_size(op.D, [&](auto size) {
    constexpr int D = decltype(size)::value;
    launch({name, static_cast<unsigned>(op.B * op.Hkv * blocks_of(op.T, kKeyTile)), kAttentionThreads,
            keys_shared_bytes(D)},
           stream, attention_keys_kernel<D>, op, c);
    launch({name, static_cast<unsigned>(op.B * op.H * blocks_of(op.T, kQueryTile)), kAttentionThreads,
            queries_shared_bytes(D)},
           stream, attention_queries_kernel<D>, op, c);
  });
}

}  // namespace cuda
}  // namespace dither
