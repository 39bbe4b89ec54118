// Sums over blocks of tokens: a thread a channel.
//
// Shapes  sums FP32, `stride` apart; to BF16 or FP32.
// Launch  blocks of one warp: there are few threads in all, so they are spread over the SMs. No shared memory.
// Order   blocks rising, from 0: an add waits for the one before it, so many loads are under way at once.
// Floor   the bytes of sums, 1 / 16 or less of what the first stage read.
#include "kernels/cuda/block_sums.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/vector.h"

namespace dither {
namespace {

constexpr int kInFlight = 32;  // loads of 4 bytes: more threads, each with more loads, than with 16 bytes a thread

template <class G>
__global__ void __launch_bounds__(kWarpLanes)
    add_block_sums_kernel(G* to, const float* sums, int64_t blocks, int64_t stride, int64_t count, bool accumulate) {
  const int64_t c = int64_t{blockIdx.x} * kWarpLanes + threadIdx.x;
  if (c >= count) return;
  const float* own = sums + c;
  float total = 0;
  int64_t block = 0;
  for (; block + kInFlight <= blocks; block += kInFlight) {
    float part[kInFlight];
    DITHER_UNROLL
    for (int i = 0; i < kInFlight; ++i) part[i] = own[(block + i) * stride];
    DITHER_UNROLL
    for (int i = 0; i < kInFlight; ++i) total += part[i];
  }
  for (; block < blocks; ++block) total += own[block * stride];
  if (accumulate) total = load1(to + c) + total;
  store1(to + c, total);
}

}  // namespace

namespace cuda {

void add_block_sums(const char* operation, View to, const float* sums, int64_t blocks, int64_t stride, int64_t count,
                    bool accumulate, Stream stream) {
  with_element(to.type, [&]<class G>(G) {
    launch({operation, blocks_of(count, kWarpLanes), kWarpLanes}, stream, add_block_sums_kernel<G>, elements<G>(to),
           sums, blocks, stride, count, accumulate);
  });
}

}  // namespace cuda
}  // namespace dither
