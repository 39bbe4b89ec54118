// The random bits of a whole leaf at once: Philox over 128 blocks, the round loop outside and the blocks inside, so
// that a vector holds one counter word of many blocks (32 x 32 -> 64 bit products: vpmuludq). The bits are
// random_block()'s; adamw_test.cpp holds one against the other.
//
// Cost on an AVX-512 core: 0.40 ns a dither; calling random_block() in a vectorised loop, 0.59 (GCC 12), 1.3 (Clang
// 14).
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>  // memcpy

#include "base/error.h"
#include "kernels/numerics/exact_sum.h"  // kLeafElements
#include "kernels/numerics/philox.h"

namespace dither {

constexpr int kLeafBlocks = static_cast<int>(kLeafElements / 8);  // a draw has 128 bits: eight dithers

/// words[4 * i + j] = word j of block first_block + i. first_block is a multiple of kLeafBlocks.
inline void draw_words(const NoiseId& id, int64_t first_block, uint32_t (&words)[4 * kLeafBlocks]) {
  DITHER_ASSERT(first_block % kLeafBlocks == 0);  // so the upper bits of the block are the same for all of them
  alignas(64) uint32_t c0[kLeafBlocks], c1[kLeafBlocks], c2[kLeafBlocks], c3[kLeafBlocks];
  for (int i = 0; i < kLeafBlocks; ++i) {
    c0[i] = static_cast<uint32_t>(first_block) + static_cast<uint32_t>(i);
    c1[i] = (id.tensor << 8) | static_cast<uint32_t>(first_block >> 32);
    c2[i] = id.step;
    c3[i] = (static_cast<uint32_t>(id.stream) << 24) | id.draw;
  }
  uint32_t k0 = static_cast<uint32_t>(id.seed), k1 = static_cast<uint32_t>(id.seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
#pragma omp simd
    for (int i = 0; i < kLeafBlocks; ++i) philox_round(c0[i], c1[i], c2[i], c3[i], k0, k1);
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
  for (int i = 0; i < kLeafBlocks; ++i) {
    words[4 * i] = c0[i];
    words[4 * i + 1] = c1[i];
    words[4 * i + 2] = c2[i];
    words[4 * i + 3] = c3[i];
  }
}

/// dithers[i] = dither_at(id, first_element + i). first_element is a multiple of kLeafElements.
inline void draw_dithers(const NoiseId& id, int64_t first_element, uint16_t (&dithers)[kLeafElements]) {
  static_assert(std::endian::native == std::endian::little);  // the lower half of a word is the even element's dither
  uint32_t words[4 * kLeafBlocks];
  draw_words(id, first_element / 8, words);
  static_assert(sizeof words == sizeof dithers);
  std::memcpy(dithers, words, sizeof words);
}

}  // namespace dither
