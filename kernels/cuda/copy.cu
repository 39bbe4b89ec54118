// Copies between tensors of one memory: to[i] = from[i], RN where FP32 becomes BF16, the bits themselves where the type
// stays.
//
// Shapes  to, from [elements], any count, BF16 or FP32 each; no overlap.
// Launch  blocks of 256; a thread for each eight and one for each element behind the last eight. Views that begin
//         between multiples of eight elements have no eights: an element a thread.
// Order   nothing is summed: the CPU's bits.
// Floor   the bytes of both.
#include "kernels/cuda/copy.h"

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/operations/check.h"

namespace dither {
namespace {

constexpr int kThreads = 256;  // 8 to 16 KB of loads under way in each block

template <class To, class From>
__global__ void __launch_bounds__(kThreads) copy_kernel(To* to, const From* from, int64_t eights, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < eights) {
    copy8(to + 8 * i, from + 8 * i);
  } else if (const int64_t e = 7 * eights + i; e < count) {  // 8 * eights + (i - eights)
    if constexpr (std::is_same_v<To, From>) {
      to[e] = from[e];
    } else {
      store1(to + e, load1(from + e));
    }
  }
}

bool on_sixteen_bytes(const void* memory) { return reinterpret_cast<uintptr_t>(memory) % sizeof(FourWords) == 0; }

}  // namespace

namespace cuda {

void copy(View to, ConstView from, int64_t count, Stream stream) {
  demand(count >= 0, "copy", "elements", count, "at least 0");
  if (count == 0) return;
  demand_float("copy", "to", to);
  demand_float("copy", "from", from);
  const int64_t eights = on_sixteen_bytes(to.data) && on_sixteen_bytes(from.data) ? count / 8 : 0;
  const dim3 grid(blocks_of(count - 7 * eights, kThreads));
  with_element(to.type, [&]<class To>(To) {
    with_element(from.type, [&]<class From>(From) {
      launch({"copy", grid, dim3(kThreads)}, stream, copy_kernel<To, From>, elements<To>(to), elements<From>(from),
             eights, count);
    });
  });
}

}  // namespace cuda
}  // namespace dither
