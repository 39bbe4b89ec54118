// The tile product in plain FP32: what runs where oneDNN does not, and what it is tested against. Sums of a block of C
// stay in registers while k rises; each value of B that is loaded serves all rows of the block.
#ifdef __FMA__
#include <immintrin.h>
#endif

#include <cstring>

#include "kernels/cpu/tile_kernel.h"

namespace dither {

namespace {

// A register of FP32 and a * b + sum in it. Written with registers, not left to the compiler: of the same loops over
// arrays GCC made code that was a hundred times slower with one instruction set than with the next.
#if defined(__AVX512F__)
using Floats = __m512;
constexpr int64_t kRows = 8;  // by two registers of columns: 16 sums in 32 registers
Floats fill(float x) { return _mm512_set1_ps(x); }
Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
#elif defined(__FMA__)
using Floats = __m256;
constexpr int64_t kRows = 6;  // 12 sums in 16 registers
Floats fill(float x) { return _mm256_set1_ps(x); }
Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm256_fmadd_ps(a, b, sum); }
#else
using Floats = float __attribute__((vector_size(16)));
constexpr int64_t kRows = 6;
Floats fill(float x) { return Floats{x, x, x, x}; }
Floats multiply_add(Floats a, Floats b, Floats sum) { return sum + a * b; }
#endif
constexpr int64_t kWidth = sizeof(Floats) / sizeof(float);
constexpr int64_t kColumns = 2 * kWidth;

Floats load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
void store(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }

/// c[r,n] (+)= sum_k a[r,k] b[k,n] for Rows rows and kColumns columns, k rising.
template <int64_t Rows>
void multiply_block(const float* a, const float* b, float* c, const TileShape& shape) {
  Floats low[Rows], high[Rows];
  for (int64_t r = 0; r < Rows; ++r) {
    low[r] = shape.accumulate ? load(c + r * kTileColumns) : fill(0);
    high[r] = shape.accumulate ? load(c + r * kTileColumns + kWidth) : fill(0);
  }
  for (int64_t k = 0; k < shape.k; ++k) {
    const Floats b_low = load(b + k * kTileColumns), b_high = load(b + k * kTileColumns + kWidth);
#pragma GCC unroll 8
    for (int64_t r = 0; r < Rows; ++r) {
      const Floats factor = fill(a[r * shape.k + k]);
      low[r] = multiply_add(factor, b_low, low[r]);
      high[r] = multiply_add(factor, b_high, high[r]);
    }
  }
  for (int64_t r = 0; r < Rows; ++r) {
    store(c + r * kTileColumns, low[r]);
    store(c + r * kTileColumns + kWidth, high[r]);
  }
}

class PlainTile final : public Tile {
 public:
  explicit PlainTile(const TileShape& shape) : shape_(shape) {}

  void multiply(int /*thread*/, const void* a, const void* b, float* c) const override {
    for (int64_t column = 0; column < kTileColumns; column += kColumns) {
      const float* columns = static_cast<const float*>(b) + column;
      int64_t row = 0;
      for (; row + kRows <= shape_.rows; row += kRows) {
        multiply_block<kRows>(rows_of(a, row), columns, at(c, row, column), shape_);
      }
      for (; row < shape_.rows; ++row) multiply_block<1>(rows_of(a, row), columns, at(c, row, column), shape_);
    }
  }

 private:
  const float* rows_of(const void* a, int64_t row) const { return static_cast<const float*>(a) + row * shape_.k; }
  static float* at(float* c, int64_t row, int64_t column) { return c + row * kTileColumns + column; }

  TileShape shape_;
};

class PlainKernel final : public TileKernel {
 public:
  DType type() const override { return DType::fp32; }
  std::string name() const override { return "plain FP32 products"; }

 private:
  std::unique_ptr<Tile> make(const TileShape& shape) override { return std::make_unique<PlainTile>(shape); }
};

}  // namespace

std::unique_ptr<TileKernel> make_plain_kernel() { return std::make_unique<PlainKernel>(); }

}  // namespace dither
