// The segments of each part of each bucket: of the whole part, and of this rank's own place in it.
#pragma once

#include "src/model/segment_lists.h"
#include "src/parallel/zero/partition.h"

namespace dither {

class PartSegments {
 public:
  enum class Own { shard, piece };  // partition.h

  /// Throws Error when memory is short.
  PartSegments(const ParameterTable& table, const Partition& partition, Own own, Backend& backend, Stream stream);

  /// What the constructor allocates.
  static int64_t bytes(const ParameterTable& table, const Partition& partition, Own own);

  /// Offsets from the part's first element.
  const SegmentLists::List& whole(int bucket, Plane plane) const { return lists_[2 * index(bucket, plane)]; }
  /// Offsets from the own place's first element.
  const SegmentLists::List& own(int bucket, Plane plane) const { return lists_[2 * index(bucket, plane) + 1]; }

 private:
  static size_t index(int bucket, Plane plane) {
    return static_cast<size_t>(bucket) * kPlanes + static_cast<size_t>(plane);
  }
  SegmentLists lists_;
};

}  // namespace dither
