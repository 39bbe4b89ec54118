#include "kernels/cpu/matrix_pack.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "kernels/cpu/tile_kernel.h"  // kTileColumns

#pragma GCC diagnostic ignored "-Wpsabi"  // how registers are passed between files: they never are

namespace dither {

namespace {

// Transposing 16-bit and 32-bit elements decides how fast BF16 products are: AMX needs about 1 ns for all that a packed
// element takes part in, an element at a time costs half of that. So blocks are turned in registers, 16 bytes of a row
// each.
using Halves = uint16_t __attribute__((vector_size(16)));
using TwoHalves = uint16_t __attribute__((vector_size(32)));
using Words = uint32_t __attribute__((vector_size(16)));

template <class Vector>
Vector load(const void* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class Vector>
void store(void* to, Vector v) {
  std::memcpy(to, &v, sizeof v);
}

Words low_words(Words a, Words b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
Words high_words(Words a, Words b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
Halves low_halves(Halves a, Halves b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
Halves high_halves(Halves a, Halves b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }

/// out[c][r] = row r [c] for 4 x 4 words; the stride in words.
void store_turned(uint32_t* out, int64_t out_stride, Words r0, Words r1, Words r2, Words r3) {
  const Words a = low_words(r0, r2), b = low_words(r1, r3), c = high_words(r0, r2), d = high_words(r1, r3);
  store(out, low_words(a, b));
  store(out + out_stride, high_words(a, b));
  store(out + 2 * out_stride, low_words(c, d));
  store(out + 3 * out_stride, high_words(c, d));
}

/// The same within each half of the registers.
TwoHalves low_halves(TwoHalves a, TwoHalves b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 8, 24, 9, 25, 10, 26, 11, 27);
}
TwoHalves high_halves(TwoHalves a, TwoHalves b) {
  return __builtin_shufflevector(a, b, 4, 20, 5, 21, 6, 22, 7, 23, 12, 28, 13, 29, 14, 30, 15, 31);
}

/// out[c][r] = in[r][c] for 16 x 8 halves; strides in halves. A register holds rows r and r + 8; three rounds of
/// interleaving rows 4 apart turn both squares.
void transpose_halves(uint16_t* out, int64_t out_stride, const uint16_t* in, int64_t in_stride) {
  TwoHalves v[8], w[8];
  for (int r = 0; r < 8; ++r) {
    const Halves upper = load<Halves>(in + r * in_stride), lower = load<Halves>(in + (r + 8) * in_stride);
    v[r] = __builtin_shufflevector(upper, lower, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  }
  for (int round = 0; round < 3; ++round) {
    for (int r = 0; r < 4; ++r) {
      w[2 * r] = low_halves(v[r], v[r + 4]);
      w[2 * r + 1] = high_halves(v[r], v[r + 4]);
    }
    std::copy(w, w + 8, v);
  }
  for (int c = 0; c < 8; ++c) store(out + c * out_stride, v[c]);
}

float widen(Bf16 x) { return to_float(x); }
float widen(float x) { return x; }

/// Four values as the bits of FP32.
Words load_wide(const float* from) { return load<Words>(from); }
Words load_wide(const Bf16* from) {
  using FourHalves = uint16_t __attribute__((vector_size(8)));
  return __builtin_convertvector(load<FourHalves>(from), Words) << 16;
}

constexpr int64_t kBlock = 32;  // k that is packed at a time: a line of BF16

/// BF16 rows from a matrix that lies contiguous in m: 16 x 8 blocks, single elements at the edges. k is the outer loop,
/// so that each row of the matrix is read as one stream; reading one line of each row in turn took three times as long.
void pack_turned_rows(uint16_t* out, const uint16_t* in, int64_t stride, const MatrixPart& part) {
  for (int64_t k0 = 0; k0 < part.k; k0 += kBlock) {
    const int64_t k1 = std::min(k0 + kBlock, part.k);
    for (int64_t m0 = 0; m0 < part.count; m0 += 8) {
      const int64_t m1 = std::min(m0 + 8, part.count);
      if (m1 - m0 == 8 && k1 - k0 == kBlock) {
        for (int64_t k = k0; k < k1; k += 16) {
          transpose_halves(out + m0 * part.padded_k + k, part.padded_k, in + k * stride + m0, stride);
        }
      } else {
        for (int64_t m = m0; m < m1; ++m) {
          for (int64_t k = k0; k < k1; ++k) out[m * part.padded_k + k] = in[k * stride + m];
        }
      }
    }
  }
}

/// out[c][r] = in[r][c], widened: 4 x 4 squares, single elements at the edges. Sixteen rows fill a line of `out`.
template <class Element>
void turn_wide(float* out, int64_t out_stride, const Element* in, int64_t in_stride, int64_t rows, int64_t columns) {
  const int64_t whole_columns = columns / 4 * 4;
  for (int64_t r0 = 0; r0 < rows; r0 += 16) {
    const int64_t r1 = std::min(r0 + 16, rows), whole_rows = r0 + (r1 - r0) / 4 * 4;
    for (int64_t c = 0; c < whole_columns; c += 4) {
      for (int64_t r = r0; r < whole_rows; r += 4) {
        const Element* from = in + r * in_stride + c;
        store_turned(reinterpret_cast<uint32_t*>(out + c * out_stride + r), out_stride, load_wide(from),
                     load_wide(from + in_stride), load_wide(from + 2 * in_stride), load_wide(from + 3 * in_stride));
      }
    }
    for (int64_t r = r0; r < r1; ++r) {
      for (int64_t c = r < whole_rows ? whole_columns : 0; c < columns; ++c) {
        out[c * out_stride + r] = widen(in[r * in_stride + c]);
      }
    }
  }
}

/// FP32 from rows that lie as they should: out[r][c] = in[r][c].
template <class Element>
void widen_rows(float* out, int64_t out_stride, const Element* in, int64_t in_stride, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) out[r * out_stride + c] = widen(in[r * in_stride + c]);
  }
}

template <class Element>
void pack_wide_rows(float* out, const Element* in, const Matrix& a, const MatrixPart& part) {
  if (a.contiguous == Contiguous::contracted) {
    widen_rows(out, part.padded_k, in, a.stride, part.count, part.k);
  } else {
    turn_wide(out, part.padded_k, in, a.stride, part.k, part.count);
  }
}

template <class Element>
void pack_wide_columns(float* out, const Element* in, const Matrix& b, const MatrixPart& part) {
  if (b.contiguous == Contiguous::free) {
    widen_rows(out, kTileColumns, in, b.stride, part.k, part.count);
  } else {
    turn_wide(out, kTileColumns, in, b.stride, part.count, part.k);
  }
}

/// BF16 columns that lie contiguous in n: out[k/2][n] = the pair (in[k][n], in[k+1][n]).
void pack_pairs_of_rows(uint16_t* out, const uint16_t* in, int64_t stride, const MatrixPart& part) {
  static constexpr uint16_t kZeros[kTileColumns] = {};
  for (int64_t k = 0; k < part.k; k += 2) {
    const uint16_t* even = in + k * stride;
    const uint16_t* odd = k + 1 < part.k ? even + stride : kZeros;
    uint16_t* to = out + k * kTileColumns;
    int64_t n = 0;
    for (; n + 8 <= part.count; n += 8) {
      const Halves a = load<Halves>(even + n), b = load<Halves>(odd + n);
      store(to + 2 * n, low_halves(a, b));
      store(to + 2 * n + 8, high_halves(a, b));
    }
    for (; n < part.count; ++n) {
      to[2 * n] = even[n];
      to[2 * n + 1] = odd[n];
    }
  }
}

/// BF16 columns that lie contiguous in k: pairs are words already, which change places.
void pack_turned_pairs(uint16_t* out, const uint16_t* in, int64_t stride, const MatrixPart& part) {
  const int64_t whole_k = stride % 2 == 0 ? part.k / 8 * 8 : 0;  // word strides need an even stride: it is in layers
  const int64_t whole_n = part.count / 4 * 4;
  auto* words = reinterpret_cast<uint32_t*>(out);
  for (int64_t n0 = 0; n0 < whole_n; n0 += 16) {  // sixteen columns are read as streams, whole lines are written
    const int64_t n1 = std::min(n0 + 16, whole_n);
    for (int64_t k = 0; k < whole_k; k += 8) {
      for (int64_t n = n0; n < n1; n += 4) {
        const auto* from = reinterpret_cast<const uint32_t*>(in + n * stride + k);
        store_turned(words + k / 2 * kTileColumns + n, kTileColumns, load<Words>(from), load<Words>(from + stride / 2),
                     load<Words>(from + stride), load<Words>(from + 3 * (stride / 2)));
      }
    }
  }
  for (int64_t n = 0; n < part.count; ++n) {
    for (int64_t k = n < whole_n ? whole_k : 0; k < part.k; ++k) {
      out[k / 2 * 2 * kTileColumns + 2 * n + k % 2] = in[n * stride + k];
    }
  }
}

/// The first element of the part.
ConstView start_of(const Matrix& matrix, const MatrixPart& part) {
  const bool contracted = matrix.contiguous == Contiguous::contracted;
  return matrix.data.at(contracted ? part.first * matrix.stride + part.first_k
                                   : part.first_k * matrix.stride + part.first);
}

}  // namespace

void pack_rows(void* out, DType type, const Matrix& a, const MatrixPart& part) {
  const ConstView in = start_of(a, part);
  const int64_t size = size_of(type), row_bytes = part.padded_k * size;
  if (type == in.type && a.contiguous == Contiguous::contracted) {
    for (int64_t m = 0; m < part.count; ++m) {
      std::memcpy(static_cast<char*>(out) + m * row_bytes, in.at(m * a.stride).data,
                  static_cast<size_t>(part.k * size));
    }
  } else if (type == DType::bf16) {
    DITHER_ASSERT(in.type == DType::bf16);
    pack_turned_rows(static_cast<uint16_t*>(out), static_cast<const uint16_t*>(in.data), a.stride, part);
  } else if (in.type == DType::bf16) {
    pack_wide_rows(static_cast<float*>(out), in.bf16(), a, part);
  } else {
    pack_wide_rows(static_cast<float*>(out), in.fp32(), a, part);
  }
  if (part.padded_k == part.k) return;
  for (int64_t m = 0; m < part.count; ++m) {
    std::memset(static_cast<char*>(out) + m * row_bytes + part.k * size, 0,
                static_cast<size_t>((part.padded_k - part.k) * size));
  }
}

void pack_columns(void* out, DType type, const Matrix& b, const MatrixPart& part) {
  DITHER_ASSERT(part.count <= kTileColumns);
  if (part.count < kTileColumns || part.k < part.padded_k) {
    std::memset(out, 0, static_cast<size_t>(part.padded_k * kTileColumns * size_of(type)));
  }
  const ConstView in = start_of(b, part);
  if (type == DType::fp32) {
    if (in.type == DType::bf16) {
      pack_wide_columns(static_cast<float*>(out), in.bf16(), b, part);
    } else {
      pack_wide_columns(static_cast<float*>(out), in.fp32(), b, part);
    }
    return;
  }
  DITHER_ASSERT(in.type == DType::bf16);
  if (b.contiguous == Contiguous::free) {
    pack_pairs_of_rows(static_cast<uint16_t*>(out), static_cast<const uint16_t*>(in.data), b.stride, part);
  } else {
    pack_turned_pairs(static_cast<uint16_t*>(out), static_cast<const uint16_t*>(in.data), b.stride, part);
  }
}

}  // namespace dither
