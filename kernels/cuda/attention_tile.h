// Tiles of attention on the tensor cores: rows of queries, keys, values or gradients in shared memory, and the two
// kinds of product that are made of them. A block is four warps; a warp owns M groups of 16 rows of the result.
//
//   scores     C[16 M, 8 N] += rows of one tile . rows of another, summed over D
//   weighted   C[16 M, D] += W[16 M, 16 K] * 16 K rows of a tile, W in registers: scores made weights and packed
//
// A tile is [rows, D] BF16. A row is cut into chunks of 16 bytes, and where its chunks lie is turned by the row's
// number: ldmatrix reads the same chunk of eight neighbouring rows, which so fall on all 32 banks once. Tiles, and the
// first row of each warp in them, begin at multiples of 128 bytes.
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#include "kernels/cuda/ptx.h"
#include "kernels/cuda/vector.h"

namespace dither {

/// Before loops that, unrolled whole, would hold more at once than there are registers: `kSteps` at a time, or one.
#ifdef __CUDACC__
#define DITHER_UNROLL_STEPS _Pragma("unroll kSteps")
#define DITHER_NO_UNROLL _Pragma("unroll 1")
#else
#define DITHER_UNROLL_STEPS
#define DITHER_NO_UNROLL
#endif

constexpr int kAttentionThreads = 128;
constexpr double kLn2 = 0.693147180559945309417;
constexpr float kMasked = -std::numeric_limits<float>::infinity();
constexpr float kSlack = 8;  // of scores above the running top: weights up to 2^8 lose nothing in FP32 or BF16

__device__ __forceinline__ int lane_of_thread() { return static_cast<int>(threadIdx.x % kWarpLanes); }
__device__ __forceinline__ int warp_of_thread() { return static_cast<int>(threadIdx.x / kWarpLanes); }
/// Place of a lane's values in a result of 16 x 8: rows group and group + 8, columns pair and pair + 1 (ptx.h).
__device__ __forceinline__ int group_of_lane() { return lane_of_thread() / 4; }
__device__ __forceinline__ int pair_of_lane() { return lane_of_thread() % 4 * 2; }

/// The greatest of the four lanes that share a row.
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

/// What a block owns: tiles of one head follow each other in the grid, then heads, then sequences. Places in a sequence
/// fit in 32 bits: the work grows as T * T. Cheap enough to ask twice, before a long loop and behind it.
struct BlockPlace {
  int tile, tiles, head, b;
};
__device__ __forceinline__ BlockPlace place_of_block(int64_t T, int rows, int heads) {
  const unsigned tiles = (static_cast<unsigned>(T) + static_cast<unsigned>(rows) - 1) / static_cast<unsigned>(rows);
  const unsigned block = computed_here(blockIdx.x);
  const unsigned row = block / tiles, all = static_cast<unsigned>(heads);
  return {static_cast<int>(block % tiles), static_cast<int>(tiles), static_cast<int>(row % all),
          static_cast<int>(row / all)};
}

/// Rows of a tile whose chunks are turned against each other. A row's length moves the next row by D / 8 chunks of the
/// eight that 32 banks hold; rows that would fall on the same place again are turned: D = 64, 128: all eight rows; 32,
/// 96: each second; 48, 80, 112: each fourth.
constexpr int turns_of(int D) { return D % 64 == 0 ? 8 : (D % 32 == 0 ? 4 : 2); }

/// Place of a chunk in a tile, in elements.
template <int D>
__device__ __forceinline__ int place_in_tile(int row, int chunk) {
  constexpr int kTurns = turns_of(D);
  return row * D + (chunk ^ (row % 8 / (8 / kTurns))) * 8;
}

/// The address of chunk `odd + even` from that of chunk `odd`, 0 or 1, in the same row: a row begins at a multiple of
/// 16 * turns bytes, so turning and moving concern bits of their own, and `even` costs one instruction at most.
template <int D>
__device__ __forceinline__ SharedAddress further(SharedAddress place, int even) {
  constexpr int kTurns = turns_of(D);
  return (place ^ static_cast<unsigned>(even % kTurns * 16)) + static_cast<unsigned>(even / kTurns * kTurns * 16);
}

/// Starts the copy of a tile's rows, which lie `stride` elements apart. Rows from `count` on are zeros. A thread takes
/// the same chunk of each eighth row or more, so that it computes its places once; where D is no power of two some of
/// the threads have nothing to do.
template <int D, int kRows>
__device__ __forceinline__ void load_tile(Bf16* tile, const Bf16* from, int64_t stride, int count) {
  constexpr int kChunks = D / 8, kAtOnce = D <= 32 ? 32 : D <= 64 ? 16 : 8;
  static_assert(kAtOnce * kChunks <= kAttentionThreads && kRows % kAtOnce == 0);
  const int thread = static_cast<int>(computed_here(threadIdx.x)), row = thread / kChunks, chunk = thread % kChunks;
  if (row >= kAtOnce) return;
  tile += place_in_tile<D>(row, chunk);
  from += row * stride + chunk * 8;
  DITHER_UNROLL
  for (int i = 0; i < kRows; i += kAtOnce) {
    cp_async_16(tile + i * D, from, row + i < count ? 16 : 0);
    from += kAtOnce * stride;
  }
}

/// c += tile_a[row_a..] . tile_b[0..8 N)
template <int D, int M, int N>
__device__ __forceinline__ void add_scores(float (&c)[M][N][4], const Bf16* tile_a, int row_a, const Bf16* tile_b) {
  constexpr int kSteps [[maybe_unused]] = D == 128 && M == 1 ? 4 : 8;  // the most without spills
  const int lane = lane_of_thread();
  const SharedAddress from_a = computed_here(shared_address(tile_a + place_in_tile<D>(row_a + lane % 16, lane / 16)));
  const SharedAddress from_b =
      computed_here(shared_address(tile_b + place_in_tile<D>(lane % 8 + lane / 16 * 8, lane / 8 % 2)));
  DITHER_UNROLL_STEPS
  for (int k = 0; k < D / 16; ++k) {
    uint32_t a[M][4];
    DITHER_UNROLL
    for (int m = 0; m < M; ++m) {
      ldmatrix_x4(a[m], further<D>(from_a, 2 * k) + static_cast<unsigned>(16 * m * 2 * D));
    }
    DITHER_UNROLL
    for (int n = 0; n < N; n += 2) {  // eight rows of b twice
      uint32_t b[4];
      ldmatrix_x4(b, further<D>(from_b, 2 * k) + static_cast<unsigned>(8 * n * 2 * D));
      DITHER_UNROLL
      for (int m = 0; m < M; ++m) {
        mma_bf16(c[m][n], a[m], b[0], b[1]);
        mma_bf16(c[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

/// c += weights * tile[0..16 K)
template <int D, int M, int K>
__device__ __forceinline__ void add_weighted(float (&c)[M][D / 8][4], const uint32_t (&weights)[M][K][4],
                                             const Bf16* tile) {
  const int lane = lane_of_thread();
  const SharedAddress from = computed_here(shared_address(tile + place_in_tile<D>(lane % 16, lane / 16)));
  DITHER_UNROLL
  for (int k = 0; k < K; ++k) {
    DITHER_UNROLL
    for (int n = 0; n < D / 8; n += 2) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, further<D>(from, n) + static_cast<unsigned>(16 * k * 2 * D));
      DITHER_UNROLL
      for (int m = 0; m < M; ++m) {
        mma_bf16(c[m][n], weights[m][k], b[0], b[1]);
        mma_bf16(c[m][n + 1], weights[m][k], b[2], b[3]);
      }
    }
  }
}

/// A result as the left factor of the next product, rounded to BF16.
template <int M, int N>
__device__ __forceinline__ void pack_weights(uint32_t (&packed)[M][N / 2][4], const float (&c)[M][N][4]) {
  DITHER_UNROLL
  for (int m = 0; m < M; ++m) {
    DITHER_UNROLL
    for (int n = 0; n < N; ++n) {
      packed[m][n / 2][n % 2 * 2] = pack_bf16(c[m][n][0], c[m][n][1]);
      packed[m][n / 2][n % 2 * 2 + 1] = pack_bf16(c[m][n][2], c[m][n][3]);
    }
  }
}

/// to[r,d] = RN(c[r,d] * factor[r]) for the first `count` of a warp's rows, `stride` apart. The way goes through the
/// warp's own part of shared memory, `rows` [16 M, D], for accesses of 16 bytes; no other warp may use it.
template <int D, int M>
__device__ __forceinline__ void store_rows(Bf16* to, int64_t stride, int count, Bf16* rows,
                                           const float (&c)[M][D / 8][4], const float (&factor)[M][2]) {
  constexpr int kChunks = D / 8;
  DITHER_UNROLL
  for (int m = 0; m < M; ++m) {
    DITHER_UNROLL
    for (int n = 0; n < kChunks; ++n) {
      DITHER_UNROLL
      for (int half = 0; half < 2; ++half) {
        Bf16* place = rows + place_in_tile<D>(16 * m + 8 * half + group_of_lane(), n) + pair_of_lane();
        *reinterpret_cast<uint32_t*>(place) =
            pack_bf16(c[m][n][2 * half] * factor[m][half], c[m][n][2 * half + 1] * factor[m][half]);
      }
    }
  }
  __syncwarp();  // lanes read what others of the warp wrote
  DITHER_UNROLL
  for (int i = 0; i < 16 * M * kChunks / kWarpLanes; ++i) {
    const int place = i * kWarpLanes + lane_of_thread();
    const int row = place / kChunks, chunk = place % kChunks;
    if (row >= count) continue;
    store_words(to + row * stride + chunk * 8,
                *reinterpret_cast<const FourWords*>(rows + place_in_tile<D>(row, chunk)));
  }
}

/// body(std::integral_constant<int, D>()) for the head sizes there are.
template <class Body>
void with_head_size(int D, const Body& body) {
  switch (D) {
    case 32:
      return body(std::integral_constant<int, 32>());
    case 48:
      return body(std::integral_constant<int, 48>());
    case 64:
      return body(std::integral_constant<int, 64>());
    case 80:
      return body(std::integral_constant<int, 80>());
    case 96:
      return body(std::integral_constant<int, 96>());
    case 112:
      return body(std::integral_constant<int, 112>());
    default:
      return body(std::integral_constant<int, 128>());
  }
}

}  // namespace dither
