// How kernels walk flat arrays of many tensors: a fixed number of blocks, each taking a run of consecutive leaves.
//
// A leaf is an aligned block of kLeafElements of one tensor; thread t of 128 holds its elements 8t .. 8t+7: one 16-byte
// access of BF16, and one draw of random bits. Sums: the FP64 sum of a leaf has the CPU's order (kernels/cpu/leaves.h),
// and leaves meet in ExactSums, whose additions are free of order, so neither the number of blocks nor the cut matters.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/vector.h"
#include "kernels/numerics/exact_sum.h"
#include "kernels/numerics/philox.h"
#include "kernels/operations/update.h"

namespace dither::cuda {

constexpr int kFlatThreads = static_cast<int>(kLeafElements / 8);
constexpr int kFlatWarps = kFlatThreads / kWarpLanes;
constexpr int kSumLanes = 16;  // of a leaf's FP64 sum
#ifdef __CUDACC__
constexpr int kFlatBlocks = 8 * 132;  // eight a multiprocessor of an H100; more than enough work in flight
#else
constexpr int kFlatBlocks = 3;  // on the host; uneven shares
#endif

/// Scratch of walk_leaves() in shared memory.
struct WalkScratch {
  int64_t warp[kFlatWarps];
  int64_t segment, leaf;  // where this block begins
};

__device__ __forceinline__ int64_t leaves_of(const Segment& s) { return (s.count + kLeafElements - 1) / kLeafElements; }

/// The sum over all threads up to this one; `total` is that of the block.
__device__ __forceinline__ int64_t block_scan(int64_t x, int64_t* warp_totals, int64_t& total) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes, warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  x = warp_scan(x);
  __syncthreads();  // the totals of an earlier scan have been read
  if (lane == kWarpLanes - 1) warp_totals[warp] = x;
  __syncthreads();
  total = 0;
  for (int w = 0; w < kFlatWarps; ++w) {
    if (w < warp) x += warp_totals[w];
    total += warp_totals[w];
  }
  return x;
}

/// body(segment, leaf, count) for each run of consecutive leaves [leaf, leaf + count) of one segment that is this
/// block's. All threads of the block, kFlatThreads of them, call it together.
template <class Body>
__device__ __forceinline__ void walk_runs(const Segment* segments, int64_t segment_count, WalkScratch* scratch,
                                          const Body& body) {
  const int64_t thread = threadIdx.x;
  int64_t leaves = 0, total = 0;
  for (int64_t i = thread; i < segment_count; i += kFlatThreads) leaves += leaves_of(segments[i]);
  block_scan(leaves, scratch->warp, total);
  const int64_t begin = total * blockIdx.x / gridDim.x, end = total * (blockIdx.x + 1) / gridDim.x;
  if (begin == end) return;

  int64_t before = 0;  // leaves of the segments before this chunk of them
  for (int64_t chunk = 0; chunk < segment_count && before <= begin; chunk += kFlatThreads) {
    const int64_t i = chunk + thread, own = i < segment_count ? leaves_of(segments[i]) : 0;
    int64_t in_chunk = 0;
    const int64_t until = before + block_scan(own, scratch->warp, in_chunk);
    if (begin >= until - own && begin < until) {
      scratch->segment = i;
      scratch->leaf = begin - (until - own);
    }
    before += in_chunk;
  }
  __syncthreads();
  int64_t segment = scratch->segment, leaf = scratch->leaf;
  for (int64_t left = end - begin; left > 0; ++segment, leaf = 0) {
    const Segment s = segments[segment];
    const int64_t here = leaves_of(s) - leaf, count = here < left ? here : left;
    body(s, leaf, count);
    left -= count;
  }
}

/// Elements of a segment's leaf: kLeafElements, or what the last one has.
__device__ __forceinline__ int64_t leaf_elements(const Segment& s, int64_t leaf) {
  const int64_t rest = s.count - leaf * kLeafElements;
  return rest < kLeafElements ? rest : kLeafElements;
}

/// The eight dithers of a thread's elements, from element `first` of the whole tensor on.
__device__ __forceinline__ void draw8(const NoiseId& id, int64_t first, uint16_t (&dithers)[8]) {
  const PhiloxWords words = random_block(id, first / 8);
  DITHER_UNROLL
  for (int i = 0; i < 8; ++i) dithers[i] = dither_of(words, i);
}

/// One step of a leaf's FP64 sum after its kSumLanes lanes have their parts: the sum, in the first lane of each
/// sixteen.
__device__ __forceinline__ double fold_lanes(double part) {
  for (int half = kSumLanes / 2; half > 0; half /= 2) part += __shfl_down_sync(kAllLanes, part, half, kSumLanes);
  return part;
}

__device__ __forceinline__ void add_atomically(int64_t* to, int64_t value) {
#ifdef __CUDACC__
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
#else
  atomicAdd(to, value);
#endif
}

__device__ __forceinline__ void add_atomically(ExactSum* to, const ExactSum& sum) {
  for (int i = 0; i < 6; ++i) {
    if (sum.digit[i] != 0) add_atomically(&to->digit[i], sum.digit[i]);
  }
  if (sum.non_finite != 0) add_atomically(&to->non_finite, sum.non_finite);
}

}  // namespace dither::cuda
