// The second stage of a sum over tokens: the first left one FP32 sum for each block of tokens.
#pragma once

#include "kernels/view.h"

namespace dither::cuda {

/// to[c] = RN((to[c] where it accumulates) + sum over b of sums[b * stride + c]), c < count, b < blocks rising from 0:
/// the CPU's bits. `operation` is for messages.
void add_block_sums(const char* operation, View to, const float* sums, int64_t blocks, int64_t stride, int64_t count,
                    bool accumulate, Stream stream);

}  // namespace dither::cuda
