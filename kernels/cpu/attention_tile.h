// Products of small FP32 tiles that stay in the caches, and their way in from BF16 or FP32 memory: the arithmetic of
// attention.
//
//   C[r,c] = keep[r] * C[r,c] + sum_k A(r,k) * B[k,c]      k rising, one fma a term
//
// A is read value by value and may be stored either way round; vectors run along c, so nothing is summed across lanes.
// The bits of an element depend on its row of A and column of B alone, not on the blocks kept in registers.
#pragma once

#include <cstdint>

#include "kernels/cpu/vector.h"

namespace dither {

constexpr int kTile = 64;  // queries or keys of a tile: 16 KB at D = 64, so that a product's B stays in 48 KB of cache
constexpr int kTileRows = 4;  // rows of C kept in registers
#ifdef __AVX512F__
constexpr int kTileVectors = 4;  // vectors of such a row: 16 sums in 32 registers hide the latency of 4 cycles
#else
constexpr int kTileVectors = 1;  // 8 sums of 8 values in 16 registers
#endif

struct TileOperand {
  const float* data;
  int64_t row;  // from A(r,k) to A(r+1,k)
  int64_t k;    // from A(r,k) to A(r,k+1)
};

/// Four rows and `vectors` vectors of C; keep: one factor a row, or null: C is only written.
template <int vectors>
inline void product_in_registers(float* C, int64_t c_row, TileOperand A, const float* B, int64_t b_row, int64_t K,
                                 const float* keep) {
  Lanes sums[kTileRows][vectors] = {};
  for (int r = 0; keep != nullptr && r < kTileRows; ++r) {
    for (int v = 0; v < vectors; ++v) sums[r][v] = load(C + r * c_row + v * kLanes) * keep[r];
  }
  for (int64_t k = 0; k < K; ++k) {
    Lanes b[vectors];
    for (int v = 0; v < vectors; ++v) b[v] = load(B + k * b_row + v * kLanes);
    for (int r = 0; r < kTileRows; ++r) {
      const Lanes a = lanes_of(A.data[r * A.row + k * A.k]);
      for (int v = 0; v < vectors; ++v) sums[r][v] = fma(a, b[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kTileRows; ++r) {
    for (int v = 0; v < vectors; ++v) store(C + r * c_row + v * kLanes, sums[r][v]);
  }
}

/// Four rows of C and `vectors` * 16 columns, cut into even pieces that fit in the registers.
inline void product_of_rows(float* C, int64_t c_row, TileOperand A, const float* B, int64_t b_row, int vectors,
                            int64_t K, const float* keep) {
  const int pieces = (vectors + kTileVectors - 1) / kTileVectors;
  for (int piece = 0, v = 0; piece < pieces; ++piece) {
    const int width = (vectors - v + pieces - piece - 1) / (pieces - piece);
    float* c = C + v * kLanes;
    const float* b = B + v * kLanes;
    if (width == 1) product_in_registers<1>(c, c_row, A, b, b_row, K, keep);
    if constexpr (kTileVectors > 1) {
      if (width == 2) product_in_registers<2>(c, c_row, A, b, b_row, K, keep);
      if (width == 3) product_in_registers<3>(c, c_row, A, b, b_row, K, keep);
      if (width == 4) product_in_registers<4>(c, c_row, A, b, b_row, K, keep);
    }
    v += width;
  }
}

constexpr int whole_lanes(int count) { return (count + kLanes - 1) / kLanes * kLanes; }

/// to[r,d] = from[r,d] for r < count, zeros up to the next multiple of sixteen rows. D is a multiple of 16.
template <class T>
void load_tile(float* to, const T* from, int64_t from_row, int count, int D) {
  for (int r = 0; r < count; ++r) {
    for (int d = 0; d < D; d += kLanes) store(to + r * D + d, load(from + r * from_row + d));
  }
  std::memset(to + count * D, 0, sizeof(float) * static_cast<size_t>((whole_lanes(count) - count) * D));
}

/// Sixteen rows of sixteen: four rounds that each interleave the first eight with the last eight; a round moves one bit
/// of the row's number into the column's.
inline void transpose(Lanes (&rows)[kLanes]) {
  for (int round = 0; round < 4; ++round) {
    Lanes mixed[kLanes];
    for (int i = 0; i < kLanes / 2; ++i) {
      const Lanes a = rows[i], b = rows[i + kLanes / 2];
      mixed[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      mixed[2 * i + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
    for (int i = 0; i < kLanes; ++i) rows[i] = mixed[i];
  }
}

/// to[d,r] = factor * from[r,d], rows of `to` kTile long, zeros for count <= r < the next multiple of sixteen.
template <class T>
void load_transposed(float* to, const T* from, int64_t from_row, int count, int D, float factor) {
  for (int r = 0; r < count; r += kLanes) {
    for (int d = 0; d < D; d += kLanes) {
      Lanes block[kLanes];
      for (int i = 0; i < kLanes; ++i) block[i] = r + i < count ? load(from + (r + i) * from_row + d) : Lanes{};
      transpose(block);
      for (int i = 0; i < kLanes; ++i) store(to + (d + i) * kTile + r, block[i] * factor);
    }
  }
}

}  // namespace dither
