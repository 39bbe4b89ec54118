#include "src/parallel/zero/part_segments.h"

namespace dither {

namespace {

std::vector<std::vector<Segment>> lists_of(const ParameterTable& table, const Partition& partition,
                                           PartSegments::Own own) {
  const bool shard = own == PartSegments::Own::shard;
  std::vector<std::vector<Segment>> lists;
  for (int b = 0; b < static_cast<int>(table.buckets().size()); ++b) {
    for (const Plane plane : kAllPlanes) {
      const int64_t all = table.extent(b, plane).elements;
      const int64_t begin = shard ? partition.shard_begin(all) : partition.piece_begin(all, partition.rank);
      const int64_t elements = shard ? partition.shard_elements(all) : partition.piece_elements(all);
      lists.push_back(table.bucket_segments(b, plane));
      lists.push_back(table.bucket_segments(b, plane, begin, begin + elements));
    }
  }
  return lists;
}

}  // namespace

PartSegments::PartSegments(const ParameterTable& table, const Partition& partition, Own own, Backend& backend,
                           Stream stream)
    : lists_(lists_of(table, partition, own), backend, stream) {}

int64_t PartSegments::bytes(const ParameterTable& table, const Partition& partition, Own own) {
  return SegmentLists::bytes(lists_of(table, partition, own));
}

}  // namespace dither
