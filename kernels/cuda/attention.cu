// Causal attention, forward, on the tensor cores: BF16 activations, FP32 sums (FlashAttention-2: Dao, arXiv
// 2307.08691). FP32 activations take the plain path; head sizes 64 and 128 on Hopper that of attention_hopper.cu.
//
//   s = q . k,  c = scale log2(e);  running top m and sum l of each query, tile of keys by tile of keys; m rises to the
//   greatest c s where that is above m + 8:
//   p = 2^(c s - m),  o = o 2^(m_before - m) + RN(p) v,  l = l 2^(m_before - m) + p;
//   out = RN(o / l),  lse = m ln 2 + ln l
//
// Shapes  qkv BF16 [B,T,H+2Hkv,D], out BF16 [B,T,H,D], lse FP32 [B,H,T]; query head h reads KV head h / (H / Hkv).
// Launch  block 128: four warps of 32 queries each, so that a key's or value's fragment serves two products. A block
//         owns 128 queries of one head and meets the keys in tiles of 64 up to the diagonal, the next tile under way
//         while it computes. Grid B * H * ceil(T / 128), the last queries of a head, which see most keys, first; the
//         blocks of a head follow each other, so its keys stay in the second level cache.
//         768 D bytes of shared memory: two blocks an SM at D = 128 on Hopper.
// Order   keys rise; a lane sums its own columns, four lanes add up at the end. Bits depend on D alone.
// Masks   where a warp meets its diagonal alone; a warp skips the tile that lies behind its last query. Rows behind T
//         are zeros on the way in and are not stored.

#include "base/error.h"
#include "kernels/cuda/attention_hopper.h"
#include "kernels/cuda/attention_plain.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/numerics/elementary.h"

namespace dither {
namespace {

constexpr int kQueries = 128;
constexpr int kKeys = 64;
constexpr int kGroups = 2;  // of 16 queries: a warp's
constexpr int kWarpQueries = 16 * kGroups;
/// Keys whose scores a warp holds at once. With 64 the largest head would need more than 255 registers; that the two
/// steps are a loop, not unrolled, keeps the compiler from holding both.
constexpr int keys_at_once(int D) { return D > 112 ? 32 : 64; }

constexpr int64_t forward_shared_bytes(int D) { return int64_t{kQueries + 4 * kKeys} * D * 2; }

/// What a lane holds of its warp's queries: rows group and group + 8 of each of the two sixteens.
template <int D>
struct ForwardRows {
  float out[kGroups][D / 8][4] = {};
  float top[kGroups][2];
  float total[kGroups][2] = {};  // of this lane's columns

  __device__ __forceinline__ ForwardRows() {
    DITHER_UNROLL
    for (int i = 0; i < 2 * kGroups; ++i) top[i / 2][i % 2] = kMasked;
  }
};

/// Scores of keys behind their query become -Inf. `ahead`: the warp's first query minus the first key.
template <int N>
__device__ __forceinline__ void mask_future(float (&s)[kGroups][N][4], int ahead) {
  const int last = ahead + group_of_lane() - pair_of_lane();  // column seen in this lane's first row, from its first
  DITHER_UNROLL
  for (int i = 0; i < kGroups * N * 4; ++i) {
    const int m = i / (4 * N), n = i / 4 % N, half = i / 2 % 2, odd = i % 2;
    if (8 * n + odd > last + 16 * m + 8 * half) s[m][n][2 * half + odd] = kMasked;
  }
}

/// What the rows hold, brought to new tops. A factor of 1 changes nothing, so rows that need none may come along.
template <int D>
__device__ __forceinline__ void scale_rows(ForwardRows<D>& rows, const float (&keep)[kGroups][2]) {
  DITHER_UNROLL
  for (int i = 0; i < 2 * kGroups; ++i) {
    const int m = i / 2, half = i % 2;
    rows.total[m][half] *= keep[m][half];
    DITHER_UNROLL
    for (int n = 0; n < D / 8; ++n) {
      rows.out[m][n][2 * half] *= keep[m][half];
      rows.out[m][n][2 * half + 1] *= keep[m][half];
    }
  }
}

/// Scores become weights. A row's top moves, and what the row holds so far with it, only where a score lies kSlack
/// above it: later tiles seldom do, and then the warp has nothing to multiply.
template <int D, int N>
__device__ __forceinline__ void weigh(ForwardRows<D>& rows, float (&s)[kGroups][N][4], float c) {
  float keep[kGroups][2];
  bool moved = false;
  DITHER_UNROLL
  for (int i = 0; i < 2 * kGroups; ++i) {
    const int m = i / 2, half = i % 2;
    float best = kMasked;
    DITHER_UNROLL
    for (int n = 0; n < N; ++n) best = fmaxf(best, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
    best = row_max(best) * c;
    float& top = rows.top[m][half];
    const float before = top;
    if (best > before + kSlack) top = best;
    keep[m][half] = exp2_approx(before - top);  // 0 in the first tile: every row sees its first key
    moved |= top != before;
  }
  if (__any_sync(kAllLanes, moved)) scale_rows(rows, keep);
  DITHER_UNROLL
  for (int i = 0; i < 2 * kGroups * N; ++i) {
    const int m = i / (2 * N), half = i / N % 2;
    DITHER_UNROLL
    for (int odd = 0; odd < 2; ++odd) {
      float& p = s[m][i % N][2 * half + odd];
      p = exp2_approx(fma_rn(p, c, -rows.top[m][half]));
      rows.total[m][half] += p;
    }
  }
}

/// A warp's queries meet one tile of keys and values.
template <int D>
__device__ __forceinline__ void meet_keys(ForwardRows<D>& rows, const Bf16* queries, const Bf16* keys,
                                          const Bf16* values, int row, int ahead, float c) {
  constexpr int kStep = keys_at_once(D);
  DITHER_NO_UNROLL
  for (int key = 0; key < kKeys && ahead - key > -kWarpQueries; key += kStep) {
    float s[kGroups][kStep / 8][4] = {};
    add_scores<D>(s, queries, row, keys + key * D);
    if (ahead - key < kStep - 1) mask_future(s, ahead - key);
    weigh(rows, s, c);
    uint32_t weights[kGroups][kStep / 16][4];
    pack_weights(weights, s);
    add_weighted<D>(rows.out, weights, values + key * D);
  }
}

/// The warp's results; `first` is its first query.
template <int D>
__device__ __forceinline__ void store_results(const AttentionForward& op, ForwardRows<D>& rows, Bf16* own, int first) {
  const BlockPlace place = place_of_block(op.T, kQueries, op.H);
  float share[kGroups][2];
  DITHER_UNROLL
  for (int i = 0; i < 2 * kGroups; ++i) {
    float& total = rows.total[i / 2][i % 2];
    total = row_sum(total);
    share[i / 2][i % 2] = 1.0f / total;
  }
  const int64_t stride = int64_t{op.H} * D;
  const int count = static_cast<int>(op.T) - first;
  store_rows<D>(static_cast<Bf16*>(op.out.data) + (place.b * op.T + first) * stride + place.head * D, stride, count,
                own, rows.out, share);
  if (pair_of_lane() != 0) return;
  DITHER_UNROLL
  for (int i = 0; i < 2 * kGroups; ++i) {
    const int row = 8 * i + group_of_lane();
    if (row >= count) continue;
    const double lse = rows.top[i / 2][i % 2] * kLn2 + log_fp64(rows.total[i / 2][i % 2]);
    op.lse[(int64_t{place.b} * op.H + place.head) * op.T + first + row] = static_cast<float>(lse);
  }
}

template <int D>
__global__ void __launch_bounds__(kAttentionThreads, 2)
    attention_forward_kernel(const AttentionForward op, const float c) {
  Bf16* queries = shared_memory<Bf16>();                         // [128,D]
  Bf16* tiles = shared_memory<Bf16>(int64_t{kQueries} * D * 2);  // two of [64 keys, D], [64 values, D]
  const BlockPlace place = place_of_block(op.T, kQueries, op.H);
  const int T = static_cast<int>(op.T), first = (place.tiles - 1 - place.tile) * kQueries;  // the most work first

  const int64_t stride = int64_t{op.H + 2 * op.Hkv} * D;
  const Bf16* sequence = static_cast<const Bf16*>(op.qkv.data) + place.b * op.T * stride;
  const Bf16* keys = sequence + (op.H + place.head / (op.H / op.Hkv)) * D;
  const auto load_keys = [&](int key) {
    Bf16* to = tiles + key / kKeys % 2 * (2 * kKeys * D);
    const Bf16* from = keys + key * stride;
    load_tile<D, kKeys>(to, from, stride, T - key);
    load_tile<D, kKeys>(to + kKeys * D, from + op.Hkv * D, stride, T - key);
    cp_async_commit();
  };
  load_tile<D, kQueries>(queries, sequence + first * stride + place.head * D, stride, T - first);
  load_keys(0);

  const int row = warp_of_thread() * kWarpQueries;
  const int seen = T < first + kQueries ? T : first + kQueries;
  ForwardRows<D> rows;
  for (int key = 0; key < seen; key += kKeys) {
    cp_async_wait<0>();
    __syncthreads();  // the tile is there for all, and all are done with the one before it, which the next replaces
    if (key + kKeys < seen) load_keys(key + kKeys);
    const Bf16* tile = tiles + key / kKeys % 2 * (2 * kKeys * D);
    const int ahead = first + row - key;
    if (first + row < T) meet_keys(rows, queries, tile, tile + kKeys * D, row, ahead, c);
  }
  if (first + row < T) store_results(op, rows, queries + row * D, first + row);
}

}  // namespace

namespace cuda {

void attention_forward(const AttentionForward& op, Stream stream) {
  op.check();
  if (op.qkv.type == DType::fp32) return plain_attention_forward(op, stream);
  if (hopper_attention_fits(op)) return hopper_attention_forward(op, stream);
  mma_attention_forward(op, stream);
}

void mma_attention_forward(const AttentionForward& op, Stream stream) {
  op.check();
  DITHER_ASSERT(op.qkv.type == DType::bf16);
  with_head_size(op.D, [&](auto size) {
    constexpr int D = decltype(size)::value;
    launch({"attention_forward", static_cast<unsigned>(op.B * op.H * blocks_of(op.T, kQueries)), kAttentionThreads,
            forward_shared_bytes(D)},
           stream, attention_forward_kernel<D>, op, op.scale * kLog2E);
  });
}

}  // namespace cuda
}  // namespace dither
