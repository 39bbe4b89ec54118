#include "kernels/cpu/matrix_pack.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "kernels/cpu/tile_kernel.h"  // kTileColumns

namespace dither {

namespace {

// Transposing 16-bit and 32-bit elements decides how fast BF16 products are: AMX needs about 1 ns for all that a packed
// element takes part in, an element at a time costs half of that. So blocks are turned in registers, 16 bytes a row.
using Halves = uint16_t __attribute__((vector_size(16)));
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

/// out[c][r] = in[r][c] for 4 x 4 words; strides in words.
void transpose_words(uint32_t* out, int64_t out_stride, const uint32_t* in, int64_t in_stride) {
  const Words r0 = load<Words>(in), r1 = load<Words>(in + in_stride);
  const Words r2 = load<Words>(in + 2 * in_stride), r3 = load<Words>(in + 3 * in_stride);
  const Words a = low_words(r0, r2), b = low_words(r1, r3), c = high_words(r0, r2), d = high_words(r1, r3);
  store(out, low_words(a, b));
  store(out + out_stride, high_words(a, b));
  store(out + 2 * out_stride, low_words(c, d));
  store(out + 3 * out_stride, high_words(c, d));
}

/// out[c][r] = in[r][c] for 8 x 8 halves; strides in halves. Three rounds of interleaving rows 4 apart.
void transpose_halves(uint16_t* out, int64_t out_stride, const uint16_t* in, int64_t in_stride) {
  Halves v[8], w[8];
  for (int r = 0; r < 8; ++r) v[r] = load<Halves>(in + r * in_stride);
  for (int round = 0; round < 3; ++round) {
    for (int r = 0; r < 4; ++r) {
      w[2 * r] = low_halves(v[r], v[r + 4]);
      w[2 * r + 1] = high_halves(v[r], v[r + 4]);
    }
    std::copy(w, w + 8, v);
  }
  for (int r = 0; r < 8; ++r) store(out + r * out_stride, v[r]);
}

float widen(Bf16 x) { return to_float(x); }
float widen(float x) { return x; }

constexpr int64_t kBlock = 32;  // k that is packed at a time: a line of BF16

/// BF16 rows from a matrix that lies contiguous in m: 8 x 8 blocks, single elements at the edges. k is the outer loop,
/// so that each row of the matrix is read as one stream; reading one line of each row in turn took three times as long.
void pack_turned_rows(uint16_t* out, const uint16_t* in, int64_t stride, const MatrixPart& part) {
  for (int64_t k0 = 0; k0 < part.k; k0 += kBlock) {
    const int64_t k1 = std::min(k0 + kBlock, part.k);
    for (int64_t m0 = 0; m0 < part.count; m0 += 8) {
      const int64_t m1 = std::min(m0 + 8, part.count);
      if (m1 - m0 == 8 && k1 - k0 == kBlock) {
        for (int64_t k = k0; k < k1; k += 8) {
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

/// FP32 rows. The FP32 kernels are ten times slower than AMX: loops that the compiler understands will do.
template <class Element>
void pack_wide_rows(float* out, const Element* in, const Matrix& a, const MatrixPart& part) {
  if (a.contiguous == Contiguous::contracted) {
    for (int64_t m = 0; m < part.count; ++m) {
      for (int64_t k = 0; k < part.k; ++k) out[m * part.padded_k + k] = widen(in[m * a.stride + k]);
    }
    return;
  }
  for (int64_t m0 = 0; m0 < part.count; m0 += kBlock) {
    const int64_t m1 = std::min(m0 + kBlock, part.count);
    for (int64_t k = 0; k < part.k; ++k) {
      for (int64_t m = m0; m < m1; ++m) out[m * part.padded_k + k] = widen(in[k * a.stride + m]);
    }
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
        transpose_words(words + k / 2 * kTileColumns + n, kTileColumns, from, stride / 2);
      }
    }
  }
  for (int64_t n = 0; n < part.count; ++n) {
    for (int64_t k = n < whole_n ? whole_k : 0; k < part.k; ++k) {
      out[k / 2 * 2 * kTileColumns + 2 * n + k % 2] = in[n * stride + k];
    }
  }
}

template <class Element>
void pack_wide_columns(float* out, const Element* in, const Matrix& b, const MatrixPart& part) {
  if (b.contiguous == Contiguous::free) {
    for (int64_t k = 0; k < part.k; ++k) {
      for (int64_t n = 0; n < part.count; ++n) out[k * kTileColumns + n] = widen(in[k * b.stride + n]);
    }
    return;
  }
  for (int64_t k0 = 0; k0 < part.k; k0 += kBlock) {
    const int64_t k1 = std::min(k0 + kBlock, part.k);
    for (int64_t n = 0; n < part.count; ++n) {
      for (int64_t k = k0; k < k1; ++k) out[k * kTileColumns + n] = widen(in[n * b.stride + k]);
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
