#include "src/parallel/zero/owned_parts.h"

namespace dither {

std::vector<OwnedPart> owned_parts(const ParameterTable& table, const Partition& partition,
                                   std::vector<PartPlace>* places) {
  std::vector<OwnedPart> parts;
  for (int b = 0; b < static_cast<int>(table.buckets().size()); ++b) {
    for (const Plane plane : kAllPlanes) {
      const int64_t elements = table.extent(b, plane).elements;
      if (elements == 0) continue;
      const int64_t begin = partition.shard_begin(elements), own = partition.shard_elements(elements);
      parts.push_back({plane, own, table.bucket_segments(b, plane, begin, begin + own), {}, {}});
      if (places != nullptr) places->push_back({b, plane});
    }
  }
  return parts;
}

}  // namespace dither
