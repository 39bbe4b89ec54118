#include "tests/cuda_host/ptx.h"

#include <bit>
#include <cmath>
#include <cstring>

namespace dither {

namespace {

using cuda_host::WarpWords;

constexpr int kLanes = 32;

float low_bf16(uint32_t word) { return std::bit_cast<float>(word << 16); }
float high_bf16(uint32_t word) { return std::bit_cast<float>(word & 0xFFFF0000u); }

/// Words of the four lanes 8 * matrix + row are the rows, brought as they lie in memory; afterwards each lane's words
/// are its parts of the four matrices.
template <bool kTransposed>
void distribute(WarpWords& warp) {
  uint16_t rows[kLanes][8];
  for (int lane = 0; lane < kLanes; ++lane) std::memcpy(rows[lane], warp.lane[lane], 16);
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int matrix = 0; matrix < 4; ++matrix) {
      const uint16_t(*m)[8] = rows + 8 * matrix;
      const uint32_t first = kTransposed ? m[pair][group] : m[group][pair];
      const uint32_t second = kTransposed ? m[pair + 1][group] : m[group][pair + 1];
      warp.lane[lane][matrix] = first | second << 16;
    }
  }
}

template <bool kTransposed>
void load_matrices(uint32_t (&r)[4], SharedAddress address) {
  const void* row = reinterpret_cast<const void*>(address);  // NOLINT: it came from a pointer
  cuda_host::demand_shared_16(row, "ldmatrix");
  std::memcpy(r, row, 16);
  cuda_host::warp_together("ldmatrix", r, 4, distribute<kTransposed>);
}

/// Of each lane: words 0 to 3 are C, 4 to 7 A, 8 and 9 B.
void multiply(WarpWords& warp) {
  float a[16][16], b[16][8], c[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint32_t* words = warp.lane[lane];
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      c[group + i / 2 * 8][pair + i % 2] = std::bit_cast<float>(words[i]);
      a[group + i % 2 * 8][pair + i / 2 * 8] = low_bf16(words[4 + i]);
      a[group + i % 2 * 8][pair + i / 2 * 8 + 1] = high_bf16(words[4 + i]);
    }
    for (int i = 0; i < 2; ++i) {
      b[pair + 8 * i][group] = low_bf16(words[8 + i]);
      b[pair + 8 * i + 1][group] = high_bf16(words[8 + i]);
    }
  }
  for (int m = 0; m < 16; ++m) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 8; ++n) c[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      warp.lane[lane][i] = std::bit_cast<uint32_t>(c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
    }
  }
}

uint32_t round_to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return 0x7FFFu;  // the device's NaN
  return (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
}

}  // namespace

void ldmatrix_x4(uint32_t (&r)[4], SharedAddress row) { load_matrices<false>(r, row); }
void ldmatrix_x4_trans(uint32_t (&r)[4], SharedAddress row) { load_matrices<true>(r, row); }

void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  uint32_t words[10];
  std::memcpy(words, c, sizeof(c));
  std::memcpy(words + 4, a, sizeof(a));
  words[8] = b0;
  words[9] = b1;
  cuda_host::warp_together("mma", words, 10, multiply);
  std::memcpy(c, words, sizeof(c));
}

float exp2_approx(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;  // NaN stays
}

uint32_t pack_bf16(float low, float high) { return round_to_bf16(low) | round_to_bf16(high) << 16; }

float fma_rn(float a, float b, float c) { return std::fma(a, b, c); }

}  // namespace dither
