// The parts of the model that a rank updates.
#pragma once

#include <vector>

#include "src/model/parameters.h"
#include "src/parallel/zero/partition.h"

namespace dither {

/// A part of a bucket, by number.
struct PartPlace {
  int bucket;
  Plane plane;
};

/// The own shard of each part of each bucket that has one, by bucket, then plane; no views. With `places` also which
/// part each one is of.
std::vector<OwnedPart> owned_parts(const ParameterTable& table, const Partition& partition,
                                   std::vector<PartPlace>* places = nullptr);

}  // namespace dither
