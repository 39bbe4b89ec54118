// How the CPU walks flat arrays of many tensors: parts for threads, made of whole leaves, and the sum over one leaf.
//
// A leaf is an aligned block of kLeafElements of one tensor. Its FP64 sum has a fixed order: lane l adds the elements
// l, l + 16, l + 32 ..., then the upper half of the lanes is added to the lower half until one is left. Leaves meet in
// ExactSums, whose additions are free of order, so no sum depends on threads, vector width or where a shard is cut.
#pragma once

#include <algorithm>  // min
#include <cstdint>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector.h"         // kLanes
#include "kernels/operations/update.h"  // Segment

namespace dither {

constexpr int64_t kPartElements = 16 * kLeafElements;  // what a thread takes at once: 100 KB or more, 15 us or more

/// body(segment, begin, end) for parts [begin, end) of every segment, counted from the segment's start; `begin` is a
/// multiple of kLeafElements.
template <class Body>
void parallel_parts(int threads, const Segment* segments, int64_t segment_count, const Body& body) {
  const auto parts_of = [](const Segment& s) { return (s.count + kPartElements - 1) / kPartElements; };
  int64_t parts = 0;
  for (int64_t i = 0; i < segment_count; ++i) parts += parts_of(segments[i]);

  parallel_for(threads, parts, [&](int64_t part) {
    const Segment* segment = segments;  // a walk over some hundred segments is nothing beside a part's work
    for (; part >= parts_of(*segment); ++segment) part -= parts_of(*segment);
    const int64_t begin = part * kPartElements;
    body(*segment, begin, std::min(begin + kPartElements, segment->count));
  });
}

/// body(begin, count) for every leaf of [begin, end).
template <class Body>
void for_each_leaf(int64_t begin, int64_t end, const Body& body) {
  for (; begin < end; begin += kLeafElements) body(begin, std::min(kLeafElements, end - begin));
}

/// The elements [at, at + count) as FP32: where they lie, or widened into `buffer`, which stays in the fastest cache.
inline const float* leaf_as_fp32(ConstView view, int64_t at, int64_t count, float (&buffer)[kLeafElements]) {
  if (view.type == DType::fp32) return view.fp32() + at;
  const Bf16* narrow = view.bf16() + at;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) buffer[i] = to_float(narrow[i]);
  return buffer;
}

/// Sum of term(i) over 0 <= i < count in the order above; count is at most kLeafElements.
template <class Term>
double leaf_sum(int64_t count, const Term& term) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
  }
  for (int lane = 0; i + lane < count; ++lane) lanes[lane] += term(i + lane);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

}  // namespace dither
