// Causal attention, forward, on Hopper's tensor cores: BF16 activations, head sizes 64 and 128 (FlashAttention-3: Shah
// et al., arXiv 2407.08608). The formulas, roundings and the rule for the running top are those of attention.cu.
//
// Shapes  qkv BF16 [B,T,H+2Hkv,D], out BF16 [B,T,H,D], lse FP32 [B,H,T]; query head h reads KV head h / (H / Hkv).
// Launch  block 384: two warpgroups that compute, 64 queries each, and one of which a single thread fetches: the
//         queries once, then keys and values in tiles of 128 up to the diagonal, two of each at a time. Grid
//         B * H * ceil(T / 128), the last queries of a head, which see most keys, first; the blocks of a head follow
//         each other, so its keys stay in the second level cache. One block an SM: registers.
// Shared  from a multiple of 1,024 bytes: queries, two tiles of keys, two of values, each D / 64 boxes [128,64]
//         (tensor_map.h); the results [128,D]; the barriers.
// Ring    tile i stands in place i % 2. `full`: its bytes have come. `empty`: the eight warps have used it, and the
//         fetching thread may replace it. Keys and values have their own, as keys are needed earlier.
// Overlap the weights of tile i are computed while the products of tile i - 1 with its values run; o is rescaled when
//         those are done.
// Order   keys rise; a lane sums its own columns, four lanes add up at the end. Bits depend on T and D alone.
// Masks   in the last tile alone, which holds the diagonal. Rows behind T are zeros on the way in and are not stored.
#include "kernels/cuda/attention_hopper.h"

#include "base/error.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx_hopper.h"
#include "kernels/numerics/elementary.h"

namespace dither {
namespace {

constexpr int kRows = 128;  // queries of a block, keys of a tile: one kind of box serves both
constexpr int kGroupThreads = 128;
constexpr int kThreads = 3 * kGroupThreads;
constexpr int kStages = 2;
// A thread starts with 65536 / 384 registers, rounded down to 8. The fetching warpgroup needs few of its own.
constexpr int kStartRegisters = 168, kConsumerRegisters = 232, kProducerRegisters = 40;
static_assert(2 * kConsumerRegisters + kProducerRegisters <= 3 * kStartRegisters);

constexpr int kBoxBytes = kRows * kBoxRowBytes;

/// Where things lie in shared memory.
template <int D>
struct Places {
  static constexpr int kBoxes = D / kBoxColumns, kTileBytes = kBoxes * kBoxBytes;
  static constexpr int kOut = (1 + 2 * kStages) * kTileBytes, kBarriers = kOut + kRows * D * 2;
  static constexpr int kCount = 1 + 4 * kStages;  // of barriers
  static constexpr int64_t kSharedBytes = kEightRowsBytes + kBarriers + 8 * kCount;

  SharedAddress begin;
  Bf16* out;

  __device__ __forceinline__ Places() {
    const SharedAddress all = shared_address(shared_memory<unsigned char>());
    const auto pad = static_cast<int>((kEightRowsBytes - all % kEightRowsBytes) % kEightRowsBytes);
    begin = all + static_cast<unsigned>(pad);
    out = shared_memory<Bf16>(pad + kOut);
  }
  __device__ __forceinline__ SharedAddress tile(int number) const {
    return begin + static_cast<unsigned>(number * kTileBytes);
  }
  __device__ __forceinline__ SharedAddress barrier(int number) const {
    return begin + static_cast<unsigned>(kBarriers + 8 * number);
  }
  __device__ __forceinline__ SharedAddress queries() const { return tile(0); }
  __device__ __forceinline__ SharedAddress keys(int i) const { return tile(1 + i % kStages); }
  __device__ __forceinline__ SharedAddress values(int i) const { return tile(1 + kStages + i % kStages); }
  __device__ __forceinline__ SharedAddress queries_full() const { return barrier(0); }
  __device__ __forceinline__ SharedAddress keys_full(int i) const { return barrier(1 + i % kStages); }
  __device__ __forceinline__ SharedAddress values_full(int i) const { return barrier(1 + kStages + i % kStages); }
  __device__ __forceinline__ SharedAddress keys_empty(int i) const { return barrier(1 + 2 * kStages + i % kStages); }
  __device__ __forceinline__ SharedAddress values_empty(int i) const { return barrier(1 + 3 * kStages + i % kStages); }
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

constexpr int kGroupQueries = 64;
constexpr int kConsumerWarps = 2 * kGroupThreads / kWarpLanes;

/// Of the phase in which tile i is full. It may be fetched once the phase before that one of `empty` has ended.
__device__ __forceinline__ uint32_t parity_of(int i) { return static_cast<uint32_t>(i / kStages % 2); }

template <int D>
__device__ __forceinline__ void start_barriers(const Places<D>& at) {
  mbarrier_init(at.queries_full(), 1);
  for (int i = 0; i < kStages; ++i) {
    mbarrier_init(at.keys_full(i), 1);
    mbarrier_init(at.values_full(i), 1);
    mbarrier_init(at.keys_empty(i), kConsumerWarps);
    mbarrier_init(at.values_empty(i), kConsumerWarps);
  }
  fence_barrier_init();
}

/// Rows from `row` on of one head.
template <int D>
__device__ __forceinline__ void fetch(SharedAddress to, SharedAddress full, const TensorMap& heads, int head, int row,
                                      int b) {
  mbarrier_expect_bytes(full, Places<D>::kTileBytes);
  for (int box = 0; box < Places<D>::kBoxes; ++box) {
    tma_load(to + static_cast<unsigned>(box * kBoxBytes), &heads, full, box * kBoxColumns, head, row, b);
  }
}

/// One thread's work: everything that comes from global memory.
template <int D>
__device__ __forceinline__ void produce(const Places<D>& at, const TensorMap& heads, const AttentionForward& op,
                                        const BlockPlace& place, int last) {
  const int key_head = op.H + place.head / (op.H / op.Hkv);
  fetch<D>(at.queries(), at.queries_full(), heads, place.head, last * kRows, place.b);
  for (int i = 0; i <= last; ++i) {
    mbarrier_wait(at.keys_empty(i), parity_of(i) ^ 1);
    fetch<D>(at.keys(i), at.keys_full(i), heads, key_head, i * kRows, place.b);
    mbarrier_wait(at.values_empty(i), parity_of(i) ^ 1);
    fetch<D>(at.values(i), at.values_full(i), heads, key_head + op.Hkv, i * kRows, place.b);
  }
}

/// s = queries . keys, under way
template <int D>
__device__ __forceinline__ void start_scores(float (&s)[kRows / 8][4], SharedAddress queries, SharedAddress keys) {
  wgmma_fence(s);
  DITHER_UNROLL
  for (int d = 0; d < D; d += 16) {
    const auto column = static_cast<unsigned>(d / kBoxColumns * kBoxBytes + d % kBoxColumns * 2);
    wgmma_k_major(s, k_major_descriptor(queries + column), k_major_descriptor(keys + column), d > 0);
  }
  wgmma_commit();
}

/// out += weights * values, under way
template <int D>
__device__ __forceinline__ void start_weighted(float (&out)[D / 8][4], uint32_t (&weights)[kRows / 16][4],
                                               SharedAddress values) {
  wgmma_fence(out, weights);
  DITHER_UNROLL
  for (int k = 0; k < kRows / 16; ++k) {
    const auto row = static_cast<unsigned>(16 * k * kBoxRowBytes);
    wgmma_n_major(out, weights[k], n_major_descriptor(values + row, kBoxBytes));
  }
  wgmma_commit();
}

/// What a lane holds beside the results of its rows, group and group + 8 of the warp's sixteen.
struct RowState {
  float top[2] = {kMasked, kMasked};
  float total[2] = {};  // of this lane's columns
};

/// Scores of keys behind their query become -Inf. `ahead`: the warp's first query minus the tile's first key.
__device__ __forceinline__ void mask_future(float (&s)[kRows / 8][4], int ahead) {
  const int last = ahead + group_of_lane() - pair_of_lane();
  DITHER_UNROLL
  for (int i = 0; i < kRows / 8 * 4; ++i) {
    const int n = i / 4, half = i / 2 % 2, odd = i % 2;
    if (8 * n + odd > last + 8 * half) s[n][2 * half + odd] = kMasked;
  }
}

/// Scores become weights, packed for the next product; `keep`: what the rows' results are to be multiplied by. True if
/// that is not 1 everywhere in the warp.
__device__ __forceinline__ bool weigh(RowState& rows, float (&s)[kRows / 8][4], float c, float (&keep)[2]) {
  bool moved = false;
  DITHER_UNROLL
  for (int half = 0; half < 2; ++half) {
    float best = kMasked;
    DITHER_UNROLL
    for (int n = 0; n < kRows / 8; ++n) best = fmaxf(best, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
    best = row_max(best) * c;
    const float before = rows.top[half];
    if (best > before + kSlack) rows.top[half] = best;
    keep[half] = exp2_approx(before - rows.top[half]);  // 0 in the first tile: every row sees its first key
    moved |= rows.top[half] != before;
    rows.total[half] *= keep[half];
    DITHER_UNROLL
    for (int i = 0; i < kRows / 4; ++i) {
      float& p = s[i / 2][2 * half + i % 2];
      p = exp2_approx(fma_rn(p, c, -rows.top[half]));
      rows.total[half] += p;
    }
  }
  return __any_sync(kAllLanes, moved);
}

__device__ __forceinline__ void pack_tile(uint32_t (&packed)[kRows / 16][4], const float (&s)[kRows / 8][4]) {
  DITHER_UNROLL
  for (int i = 0; i < kRows / 16 * 4; ++i) {
    const float(&c)[4] = s[i / 4 * 2 + i % 4 / 2];
    packed[i / 4][i % 4] = i % 2 == 0 ? pack_bf16(c[0], c[1]) : pack_bf16(c[2], c[3]);
  }
}

template <int N>
__device__ __forceinline__ void scale_rows(float (&out)[N][4], const float (&keep)[2]) {
  DITHER_UNROLL
  for (int i = 0; i < 4 * N; ++i) out[i / 4][i % 4] *= keep[i / 2 % 2];
}

/// A warp is done with the place of a tile. Its products with it have been waited for by all lanes at once.
__device__ __forceinline__ void release(SharedAddress empty) {
  if (lane_of_thread() == 0) {
    mbarrier_arrive(empty);
  }
}

/// The warp's results; `first` is its first query, `own` its part of shared memory [16,D].
template <int D>
__device__ __forceinline__ void store_results(const AttentionForward& op, const BlockPlace& place, int first, Bf16* own,
                                              RowState& rows, float (&out)[D / 8][4]) {
  float share[2];
  DITHER_UNROLL
  for (int half = 0; half < 2; ++half) {
    rows.total[half] = row_sum(rows.total[half]);
    share[half] = 1.0f / rows.total[half];
  }
  scale_rows(out, share);
  const int lane = lane_of_thread(), count = static_cast<int>(op.T) - first;
  // Matrices of a store: rows 0 to 7 and 8 to 15 of eight columns, then of the next eight.
  const SharedAddress from = shared_address(own + place_in_tile<D>(lane % 16, lane / 16));
  DITHER_UNROLL
  for (int n = 0; n < D / 8; n += 2) {
    const uint32_t packed[4] = {pack_bf16(out[n][0], out[n][1]), pack_bf16(out[n][2], out[n][3]),
                                pack_bf16(out[n + 1][0], out[n + 1][1]), pack_bf16(out[n + 1][2], out[n + 1][3])};
    stmatrix_x4(further<D>(from, n), packed);
  }
  __syncwarp();
  const int64_t stride = int64_t{op.H} * D;
  Bf16* to = static_cast<Bf16*>(op.out.data) + (place.b * op.T + first) * stride + place.head * D;
  DITHER_UNROLL
  for (int i = lane; i < 16 * D / 8; i += kWarpLanes) {
    const int row = i / (D / 8), chunk = i % (D / 8);
    if (row >= count) continue;
    store_words(to + row * stride + chunk * 8, *reinterpret_cast<const FourWords*>(own + place_in_tile<D>(row, chunk)));
  }
  if (pair_of_lane() != 0) return;
  DITHER_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = 8 * half + group_of_lane();
    if (row >= count) continue;
    const double lse = rows.top[half] * kLn2 + log_fp64(rows.total[half]);
    op.lse[(int64_t{place.b} * op.H + place.head) * op.T + first + row] = static_cast<float>(lse);
  }
}

/// A warpgroup's 64 queries meet the tiles 0 to `last`.
template <int D>
__device__ __forceinline__ void consume(const Places<D>& at, const AttentionForward& op, const BlockPlace& place,
                                        int last, float c) {
  const int group = static_cast<int>(threadIdx.x) / kGroupThreads, row = warp_of_thread() * 16;
  const SharedAddress queries = at.queries() + static_cast<unsigned>(group * kGroupQueries * kBoxRowBytes);
  RowState rows;
  float s[kRows / 8][4] = {}, out[D / 8][4] = {}, keep[2];
  uint32_t weights[kRows / 16][4];
  mbarrier_wait(at.queries_full(), 0);
  mbarrier_wait(at.keys_full(0), 0);
  start_scores<D>(s, queries, at.keys(0));
  wgmma_wait<0>(s);
  release(at.keys_empty(0));
  if (last == 0) mask_future(s, row);
  weigh(rows, s, c, keep);
  pack_tile(weights, s);
  for (int i = 1; i <= last; ++i) {
    mbarrier_wait(at.keys_full(i), parity_of(i));
    start_scores<D>(s, queries, at.keys(i));
    mbarrier_wait(at.values_full(i - 1), parity_of(i - 1));
    start_weighted<D>(out, weights, at.values(i - 1));
    wgmma_wait<1>(s);
    release(at.keys_empty(i));
    if (i == last) mask_future(s, row);
    const bool moved = weigh(rows, s, c, keep);
    wgmma_wait<0>(out);
    release(at.values_empty(i - 1));
    if (moved) scale_rows(out, keep);
    pack_tile(weights, s);
  }
  mbarrier_wait(at.values_full(last), parity_of(last));
  start_weighted<D>(out, weights, at.values(last));
  wgmma_wait<0>(out);
  const int first = last * kRows + row;
  if (first < op.T) store_results<D>(op, place, first, at.out + row * D, rows, out);
}

template <int D>
__device__ __forceinline__ void run_block(const AttentionForward& op, float c, const TensorMap& heads) {
  const Places<D> at;
  const BlockPlace place = place_of_block(op.T, kRows, op.H);
  const int last = place.tiles - 1 - place.tile;  // of the tiles; the most work first
  if (threadIdx.x == 0) start_barriers(at);
  __syncthreads();
  if (threadIdx.x >= 2 * kGroupThreads) {
    release_registers<kProducerRegisters>();
    if (threadIdx.x == 2 * kGroupThreads) produce(at, heads, op, place, last);
  } else {
    take_registers<kConsumerRegisters>();
    consume(at, op, place, last, c);
  }
}

#endif

template <int D>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_forward_kernel(const AttentionForward op, const float c, const __grid_constant__ TensorMap heads) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  run_block<D>(op, c, heads);
#else
  __trap();  // hopper_attention_fits() keeps other devices away
#endif
}

template <int D>
void start(const AttentionForward& op, Stream stream) {
  const int64_t row = int64_t{op.H + 2 * op.Hkv} * D;
  const TensorMap heads = tensor_map({.memory = op.qkv.data,
                                      .sizes = {D, op.H + 2 * op.Hkv, op.T, op.B},
                                      .stride_bytes = {D * 2, row * 2, op.T * row * 2},
                                      .boxes = {1, kRows, 1}},
                                     "attention_forward");
  launch({"attention_forward", static_cast<unsigned>(op.B * op.H * blocks_of(op.T, kRows)), kThreads,
          Places<D>::kSharedBytes},
         stream, hopper_forward_kernel<D>, op, op.scale * kLog2E, heads);
}

bool device_is_hopper() {
#if defined(__CUDACC__) && !defined(DITHER_SM_90A)  // the program has no code for it (cmake/cuda.cmake)
  return false;
#else
  static const bool hopper = [] {
    int device = 0;
    cudaDeviceProp properties;
    check_cuda(cudaGetDevice(&device), "attention_forward");
    check_cuda(cudaGetDeviceProperties(&properties, device), "attention_forward");
    return properties.major == 9 && properties.minor == 0;
  }();
  return hopper;
#endif
}

}  // namespace

namespace cuda {

bool hopper_attention_fits(const AttentionForward& op) {
  return op.qkv.type == DType::bf16 && (op.D == 64 || op.D == 128) && device_is_hopper();
}

void hopper_attention_forward(const AttentionForward& op, Stream stream) {
  op.check();
  DITHER_ASSERT(op.qkv.type == DType::bf16 && (op.D == 64 || op.D == 128));
  if (op.D == 64) return start<64>(op, stream);
  start<128>(op, stream);
}

}  // namespace cuda
}  // namespace dither
