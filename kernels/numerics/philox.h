// Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011) and how a counter is formed:
// random bits are a pure function of where and when (NUMERICS 2), so no generator has a state.
//
//   key      run seed, 64 bits
//   counter  c0 = low 32 bits of the block (element index / 8)      c1 = tensor id (24 bits) | high 8 bits of the block
//            c2 = optimizer step                                    c3 = stream (8 bits) | draw (24 bits)
//
// One 128-bit draw gives the eight 16-bit dithers of a block of eight elements; the element index counts in the WHOLE
// tensor, so the bits do not depend on rank, shard, grid, thread count or backend. This layout is `rng_layout: 1`.
#pragma once

#include <cstdint>

#include "kernels/numerics/host_device.h"

namespace dither {

/// Purposes never share a draw. The numbers are part of rng_layout 1: they may grow, never change.
enum class RandomStream : uint32_t {
  weight = 0,
  first_moment = 1,
  second_moment = 2,
  gradient_accumulation = 3,
  initialisation = 4,
  weight_noise = 5,
  activation_quantisation = 6,
  output_gradient_quantisation = 7,
  data_shuffle = 8,
  sampling = 9,
  gradient_wire = 10,
};

struct PhiloxWords {
  uint32_t w[4];
};

/// One round on a counter; the key steps by kPhiloxWeyl between rounds.
constexpr int kPhiloxRounds = 10;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u, kPhiloxWeyl1 = 0xBB67AE85u;  // golden ratio and sqrt(3) - 1
DITHER_INLINE void philox_round(uint32_t& c0, uint32_t& c1, uint32_t& c2, uint32_t& c3, uint32_t k0, uint32_t k1) {
  const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
  const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
  c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
  c1 = static_cast<uint32_t>(p1);
  c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
  c3 = static_cast<uint32_t>(p0);
}

/// Ten rounds. Checked against the published known-answer vectors.
DITHER_HOST_DEVICE inline PhiloxWords philox4x32_10(PhiloxWords counter, uint64_t key) {
  uint32_t c0 = counter.w[0], c1 = counter.w[1], c2 = counter.w[2], c3 = counter.w[3];
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    philox_round(c0, c1, c2, c3, k0, k1);
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
  return {{c0, c1, c2, c3}};
}

/// Which noise: everything of a counter but the block.
struct NoiseId {
  uint64_t seed;
  uint32_t tensor;  // below 2^24
  uint32_t step;
  RandomStream stream;
  uint32_t draw;  // below 2^24: global micro-batch index for gradients, 0 for weights and moments
};

/// The 128 bits of one block of eight elements. block < 2^40.
DITHER_HOST_DEVICE inline PhiloxWords random_block(const NoiseId& id, int64_t block) {
  const uint32_t c1 = (id.tensor << 8) | static_cast<uint32_t>(block >> 32);
  const uint32_t c3 = (static_cast<uint32_t>(id.stream) << 24) | id.draw;
  return philox4x32_10({{static_cast<uint32_t>(block), c1, id.step, c3}}, id.seed);
}

/// Dither of the element `index` (0..7) of a block: word index / 2, lower half first.
DITHER_HOST_DEVICE inline uint16_t dither_of(const PhiloxWords& words, int index) {
  return static_cast<uint16_t>(words.w[index / 2] >> (16 * (index % 2)));
}

/// Dither of one element; use random_block() where several elements of a block are drawn.
DITHER_HOST_DEVICE inline uint16_t dither_at(const NoiseId& id, int64_t element) {
  return dither_of(random_block(id, element / 8), static_cast<int>(element % 8));
}

/// 32 random bits of one element (initialisation, sampling): word element % 4 of block element / 4.
DITHER_HOST_DEVICE inline uint32_t random_word(const NoiseId& id, int64_t element) {
  return random_block(id, element / 4).w[element % 4];
}

}  // namespace dither
