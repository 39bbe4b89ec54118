// What a matrix product is made of: one tile, C[rows,64] (+)= A[rows,k] * B[k,64] with FP32 sums, on one thread.
//
//   A  [rows,k]         contiguous in k, rows dense
//   B  BF16 [k/2,64,2]  pairs of k beside each other, as the BF16 units of x86 read them; FP32 [k,64]
//   C  [rows,64]        FP32
//
// k is a multiple of kTileStep: packing (matrix_pack.h) fills up with zeros. The bits of C depend on the operands and
// the shape alone, never on how many threads run tiles beside this one.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>

#include "kernels/numerics/dtype.h"

namespace dither {

constexpr int64_t kTileColumns = 64;  // four AVX-512 registers of FP32, two by two AMX tiles: what oneDNN works in
constexpr int64_t kTileStep = 32;     // k of one AMX instruction

struct TileShape {
  int64_t rows, k;
  bool accumulate;  // C keeps what it holds and gets the product added
  friend bool operator<(const TileShape& a, const TileShape& b) {
    return std::tie(a.rows, a.k, a.accumulate) < std::tie(b.rows, b.k, b.accumulate);
  }
};

/// The code for one shape. `thread` tells callers at work at the same time apart: 0 <= thread < threads.
class Tile {
 public:
  virtual ~Tile() = default;
  virtual void multiply(int thread, const void* a, const void* b, float* c) const = 0;
};

class TileKernel {
 public:
  virtual ~TileKernel() = default;
  /// Of the packed operands: BF16 or FP32.
  virtual DType type() const = 0;
  /// For the start-up table, for example "oneDNN 2.6.3 (AMX)".
  virtual std::string name() const = 0;

  /// Made when first asked for, then kept: the reference stays valid as long as the kernel. Any thread may ask, but
  /// not while tiles are multiplied: their scratch memory may grow.
  const Tile& prepare(const TileShape& shape) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::unique_ptr<Tile>& tile = tiles_[shape];
    if (!tile) tile = make(shape);
    return *tile;
  }

 private:
  virtual std::unique_ptr<Tile> make(const TileShape& shape) = 0;

  std::mutex mutex_;
  std::map<TileShape, std::unique_ptr<Tile>> tiles_;
};

/// Plain loops in FP32, for builds without oneDNN, processors it does not know, and tests.
std::unique_ptr<TileKernel> make_plain_kernel();

/// oneDNN on operands of `type`; null where it has no fast product of that type (BF16 below AVX512-BF16), or is not
/// part of this build.
std::unique_ptr<TileKernel> make_onednn_kernel(DType type, int threads);

}  // namespace dither
