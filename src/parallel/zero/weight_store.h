// Where ZeRO keeps weights, and how ranks get those that others own.
//
//   WholeWeights    stages 0 to 2: every rank has all; after a step each shard is gathered, in place, from its owner
//   ShardedWeights  stage 3: a rank has its shard of every bucket; a bucket is gathered into one of three slots
//                   before it is used, and the next one while this one computes
//
// Blocks and positions take turns between two slots; the third is for the embedding and an untied head, which are large
// and never needed at the same time.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "src/model/memory_plan.h"
#include "src/model/parameters.h"
#include "src/parallel/zero/lane.h"
#include "src/parallel/zero/options.h"
#include "src/parallel/zero/rank_groups.h"

namespace dither {

/// A bucket's part in each plane, or a shard of it; absent where it has none.
using PlaneViews = std::array<View, kPlanes>;

/// The slot that a bucket takes while it is in use, of kSlots: what is in use at the same time, or right after each
/// other, lies apart.
constexpr size_t kSlots = 3;
size_t slot_of(const ParameterTable& table, int bucket);
/// The largest part of a plane among the buckets of a slot.
int64_t slot_elements(const ParameterTable& table, Plane plane, size_t slot);

class WeightStore {
 public:
  virtual ~WeightStore() = default;
  /// Whole weights of a bucket, valid on the first stream until release().
  virtual PlaneViews acquire(int bucket) = 0;
  /// The bucket will be acquired next; -1: none.
  virtual void prefetch(int bucket) = 0;
  virtual void release(int bucket) = 0;
  /// The own shard of a bucket: what the optimizer writes.
  virtual PlaneViews shard(int bucket) const = 0;
  /// The own shard of a part is new.
  virtual void updated(int bucket, Plane plane) = 0;
  /// All are: from now on acquire() gives the new weights.
  virtual void finish_update() = 0;
};

/// The store of a stage. Throws Error when memory is short.
std::unique_ptr<WeightStore> make_weight_store(const ParameterTable& table, const ZeroOptions& options,
                                               RankGroups& ranks, Backend& backend, Lane& lane);
/// Adds what it would allocate.
void plan_weights(const ParameterTable& table, const ZeroOptions& options, const Partition& partition,
                  MemoryPlan& plan);

}  // namespace dither
