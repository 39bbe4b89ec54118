// A seeded permutation of [0, size) in O(1) time and without a table: the order in which an epoch visits the corpus.
//
// A balanced Feistel network on the smallest even number of bits that covers `size`. Each round maps the halves
//   (left, right) -> (right, left XOR philox(right; seed, epoch, round))
// which can be undone whatever philox returns, so the network permutes [0, 2^bits). A value that lands at or beyond
// `size` goes through again ("cycle walking") until it lands inside: that is still a permutation, because each cycle
// of the network is walked in one direction, and takes fewer than 4 passes on average, because 2^bits < 4 * size.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "kernels/numerics/philox.h"

namespace dither {

/// Where position `index` of an epoch lies: a pure function of all four arguments, and for each (size, seed, epoch) a
/// bijection of [0, size).
inline int64_t permuted(int64_t index, int64_t size, uint64_t seed, int64_t epoch) {
  DITHER_ASSERT(index >= 0 && index < size && epoch >= 0);
  // Luby and Rackoff need 4 rounds; halves of one or two bits (tiny corpora) mix better with 8, and a round costs some
  // 20 ns where a window of 1,024 tokens costs thousands of times that to train on.
  constexpr uint32_t kRounds = 8;
  int half_bits = 1;
  while (half_bits < 31 && (int64_t{1} << (2 * half_bits)) < size) ++half_bits;  // 2 * 31 bits: 4e18 windows
  const uint64_t half_mask = (uint64_t{1} << half_bits) - 1;

  NoiseId noise{};
  noise.seed = seed;
  noise.step = static_cast<uint32_t>(epoch);
  noise.stream = RandomStream::data_shuffle;
  noise.draw = static_cast<uint32_t>(epoch >> 32) & 0xFFFFFFu;  // tiny corpora can pass 2^32 epochs
  uint64_t value = static_cast<uint64_t>(index);
  do {
    uint64_t left = value >> half_bits, right = value & half_mask;
    for (uint32_t round = 0; round < kRounds; ++round) {
      noise.tensor = round;
      const uint64_t mixed = left ^ (random_block(noise, static_cast<int64_t>(right)).w[0] & half_mask);
      left = right;
      right = mixed;
    }
    value = left << half_bits | right;
  } while (value >= static_cast<uint64_t>(size));
  return static_cast<int64_t>(value);
}

}  // namespace dither
