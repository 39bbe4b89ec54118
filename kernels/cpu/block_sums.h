// The second stage of a sum over tokens: the first left one FP32 sum a block of tokens, in memory [blocks, 2, C].
#pragma once

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector.h"

namespace dither {

/// to[c] = RN(sum over blocks of sums[block, which, c]), blocks rising, C a multiple of 8.
inline void add_block_sums(View to, const float* sums, int64_t blocks, int which, int C, int threads) {
  constexpr int64_t kGrain = 256;  // channels a part: 1 KB of each block
  with_type(to.type, [&](auto type) {
    auto* gradient = data_of<decltype(type)>(to);
    parallel_ranges(threads, C, kGrain, [&](int64_t begin, int64_t end) {
      sweep(end - begin, [&](int64_t offset, auto part) {
        const int64_t c = begin + offset;
        Lanes total{};
        for (int64_t block = 0; block < blocks; ++block) total += load(sums + (block * 2 + which) * C + c, part);
        store(gradient + c, total, part);
      });
    });
  });
}

}  // namespace dither
