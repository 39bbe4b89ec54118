// Matrix products of any size from tiles (tile_kernel.h): C[m,n] = sum_k A[m,k] B[k,n], finished as a linear layer
// asks.
//
//   slices   B is packed in slices of columns and chunks of k, once for all rows, by all threads
//   blocks   then the threads take blocks of C: some rows by some panels of 64 columns. Rows of A are read where they
//            lie, or packed first where their type, order or length does not suit the tiles.
//   finish   a block whose last chunk is done is still in cache: bias, rounding, GELU and the write into C happen there
//
// All cuts follow from the shape and the type alone, and each tile runs on one thread, so the bits of C do not depend
// on the number of threads. Sums are FP32: within a chunk in the tile kernel's order, then chunk by chunk.
//
// Memory (packed slice, packed rows, sums) grows when a shape is first seen and is kept: repeated shapes allocate
// nothing. One product at a time: the memory is shared.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/aligned_buffer.h"
#include "kernels/cpu/matrix_pack.h"
#include "kernels/cpu/tile_kernel.h"
#include "kernels/operations/linear.h"  // Epilogue

namespace dither {

struct Product {
  View c;                       // [M,N] out  BF16 or FP32, rounded by RN
  View pre_activation{};        // [M,N] out  with Epilogue::gelu: the type of c; else absent
  Matrix a{}, b{};              // [M,K], [K,N]  the same type
  ConstView bias{};             // [N]  added to each row in FP32 before rounding; absent: none
  int64_t M = 0, N = 0, K = 0;  // at least 1; N a multiple of 8
  Epilogue epilogue = Epilogue::none;
  bool accumulate = false;  // c (FP32) keeps what it holds and gets the product added
};

/// How a product is cut: a function of its shape, the size of a packed element and whether rows must be packed.
struct Cuts {
  int64_t chunk_k;  // k of a chunk, a multiple of kTileStep; the last chunk may be shorter
  int64_t chunks;
  int64_t block_rows;    // rows of a block and of its tiles; the last block may have fewer
  int64_t block_panels;  // panels of 64 columns of a block
  int64_t slice_panels;  // panels of a slice, a multiple of block_panels
};
Cuts cuts_of(int64_t M, int64_t N, int64_t K, int64_t element_bytes, bool pack_rows);

class MatrixProduct {
 public:
  enum class Kernels {
    best,     // oneDNN where it has fast tiles, BF16 tiles where the processor multiplies BF16
    widened,  // BF16 widened to FP32 even where that is slower: what older processors do
    plain,    // no oneDNN
  };
  explicit MatrixProduct(int threads, Kernels kernels = Kernels::best);

  void multiply(const Product& product);

  /// For the start-up table: "oneDNN 2.6.3 (AMX)".
  std::string description() const;
  /// Held for packed operands and sums, on top of what the backend has allocated.
  int64_t memory_bytes() const;

 private:
  struct Stage;  // one chunk of one slice
  TileKernel& kernel_of(DType type) const;
  void reserve(const Cuts& cuts, int64_t M, DType packed, bool pack_a);
  void run_stage(const Product& product, const Stage& stage);
  void pack_strip(const Product& product, const Stage& stage, int64_t panel, int64_t strip);
  void multiply_block(const Product& product, const Stage& stage, int64_t block);

  int threads_;
  std::unique_ptr<TileKernel> bf16_kernel_;  // null: BF16 is widened
  std::unique_ptr<TileKernel> fp32_kernel_;
  AlignedBuffer packed_columns_;  // [slice_panels][chunk_k][64]
  AlignedBuffer sums_;            // [blocks of the slice][block_panels][block_rows][64] FP32, with more than one chunk
  struct Lane {
    AlignedBuffer packed_rows;  // [block_rows][chunk_k]
    AlignedBuffer sums;         // [4 panels][block_rows][64] FP32, with one chunk
  };
  std::vector<Lane> lanes_;  // one a thread
};

}  // namespace dither
