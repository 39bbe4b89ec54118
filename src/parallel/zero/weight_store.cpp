#include "src/parallel/zero/weight_store.h"

#include <algorithm>

#include "base/error.h"

namespace dither {

size_t slot_of(const ParameterTable& table, int bucket) {
  if (bucket == table.embedding_bucket() || bucket == table.head_bucket()) return 2;
  const int first = table.block_bucket(0);
  if (bucket == table.position_bucket()) return 1;  // before block 0 forward, behind it backward
  if (bucket == table.final_bucket()) return static_cast<size_t>(table.layers() % 2);
  return static_cast<size_t>((bucket - first) % 2);
}

int64_t slot_elements(const ParameterTable& table, Plane plane, size_t slot) {
  int64_t largest = 0;
  for (int b = 0; b < static_cast<int>(table.buckets().size()); ++b) {
    if (slot_of(table, b) != slot) continue;
    largest = std::max(largest, table.extent(b, plane).elements);
  }
  return largest;
}

namespace {

bool sharded(const ZeroOptions& options, const Partition& partition) {
  return options.stage == 3 && partition.shards > 1;
}

/// Calls body(plane, extent) for the parts that a bucket has.
template <class Body>
void for_each_part(const ParameterTable& table, int bucket, const Body& body) {
  for (const Plane plane : kAllPlanes) {
    const Extent& extent = table.extent(bucket, plane);
    if (extent.elements > 0) body(plane, extent);
  }
}

class WholeWeights final : public WeightStore {
 public:
  WholeWeights(const ParameterTable& table, const ZeroOptions& options, RankGroups& ranks, Backend& backend, Lane& lane)
      : table_(table), ranks_(ranks), backend_(backend), lane_(lane) {
    for (const Plane plane : kAllPlanes) {
      const DType type = options.weight_type(plane);
      const int64_t elements = table.flat_elements(plane);
      if (elements > 0) arrays_[static_cast<size_t>(plane)] = {backend.allocate(elements * size_of(type)), type};
    }
  }
  ~WholeWeights() override {
    for (const View array : arrays_) backend_.free(array.data);
  }

  PlaneViews acquire(int bucket) override {
    PlaneViews views;
    for_each_part(table_, bucket, [&](Plane plane, const Extent& extent) {
      views[static_cast<size_t>(plane)] = arrays_[static_cast<size_t>(plane)].at(extent.offset);
    });
    return views;
  }
  void prefetch(int) override {}
  void release(int) override {}
  PlaneViews shard(int bucket) const override {
    PlaneViews views;
    for_each_part(table_, bucket, [&](Plane plane, const Extent& extent) {
      const int64_t begin = extent.offset + ranks_.partition().shard_begin(extent.elements);
      views[static_cast<size_t>(plane)] = arrays_[static_cast<size_t>(plane)].at(begin);
    });
    return views;
  }
  void updated(int bucket, Plane plane) override {
    const Extent& extent = table_.extent(bucket, plane);
    if (ranks_.partition().shards == 1) return;
    lane_.give();
    ranks_.group().all_gather(arrays_[static_cast<size_t>(plane)].at(extent.offset),
                              shard(bucket)[static_cast<size_t>(plane)],
                              ranks_.partition().shard_elements(extent.elements), lane_.stream());
  }
  void finish_update() override { lane_.join(); }

 private:
  const ParameterTable& table_;
  RankGroups& ranks_;
  Backend& backend_;
  Lane& lane_;
  PlaneViews arrays_;  // flat, as the table lays them out
};

class ShardedWeights final : public WeightStore {
 public:
  ShardedWeights(const ParameterTable& table, const ZeroOptions& options, RankGroups& ranks, Backend& backend,
                 Lane& lane)
      : table_(table), ranks_(ranks), backend_(backend), lane_(lane) {
    for (const Plane plane : kAllPlanes) {
      const DType type = options.weight_type(plane);
      const auto allocate = [&](int64_t elements) {
        return elements > 0 ? View{backend.allocate(elements * size_of(type)), type} : View();
      };
      shards_[static_cast<size_t>(plane)] = allocate(table.flat_elements(plane) / ranks.partition().shards);
      for (size_t s = 0; s < kSlots; ++s) {
        slots_[s].views[static_cast<size_t>(plane)] = allocate(slot_elements(table, plane, s));
      }
    }
  }
  ~ShardedWeights() override {
    for (const View array : shards_) backend_.free(array.data);
    for (const Slot& slot : slots_) {
      for (const View view : slot.views) backend_.free(view.data);
    }
  }

  PlaneViews acquire(int bucket) override {
    Slot& slot = slots_[slot_of(table_, bucket)];
    if (slot.holds != bucket) gather(bucket);
    lane_.join(slot.place);
    slot.in_use = true;
    PlaneViews views;
    for_each_part(table_, bucket, [&](Plane plane, const Extent&) {
      views[static_cast<size_t>(plane)] = slot.views[static_cast<size_t>(plane)];
    });
    return views;
  }
  void prefetch(int bucket) override {
    if (bucket < 0) return;
    const Slot& slot = slots_[slot_of(table_, bucket)];
    if (!slot.in_use && slot.holds != bucket) gather(bucket);
  }
  void release(int bucket) override { slots_[slot_of(table_, bucket)].in_use = false; }
  PlaneViews shard(int bucket) const override {
    PlaneViews views;
    for_each_part(table_, bucket, [&](Plane plane, const Extent& extent) {
      views[static_cast<size_t>(plane)] =
          shards_[static_cast<size_t>(plane)].at(extent.offset / ranks_.partition().shards);
    });
    return views;
  }
  void updated(int, Plane) override {}
  void finish_update() override {
    for (Slot& slot : slots_) slot.holds = -1;  // what they hold is of the step before
  }

 private:
  struct Slot {
    PlaneViews views;
    int holds = -1;  // bucket
    bool in_use = false;
    int64_t place = 0;  // of its gathering in the lane
  };

  void gather(int bucket) {
    Slot& slot = slots_[slot_of(table_, bucket)];
    DITHER_ASSERT(!slot.in_use);
    slot.place = lane_.give();  // behind all that used the slot before
    slot.holds = bucket;
    const PlaneViews own = shard(bucket);
    for_each_part(table_, bucket, [&](Plane plane, const Extent& extent) {
      const auto i = static_cast<size_t>(plane);
      ranks_.group().all_gather(slot.views[i], own[i], ranks_.partition().shard_elements(extent.elements),
                                lane_.stream());
    });
  }

  const ParameterTable& table_;
  RankGroups& ranks_;
  Backend& backend_;
  Lane& lane_;
  PlaneViews shards_;  // flat: the own shard of each bucket, one after the other
  std::array<Slot, kSlots> slots_;
};

}  // namespace

std::unique_ptr<WeightStore> make_weight_store(const ParameterTable& table, const ZeroOptions& options,
                                               RankGroups& ranks, Backend& backend, Lane& lane) {
  if (sharded(options, ranks.partition())) {
    return std::make_unique<ShardedWeights>(table, options, ranks, backend, lane);
  }
  return std::make_unique<WholeWeights>(table, options, ranks, backend, lane);
}

void plan_weights(const ParameterTable& table, const ZeroOptions& options, const Partition& partition,
                  MemoryPlan& plan) {
  for (const Plane plane : kAllPlanes) {
    const int64_t size = size_of(options.weight_type(plane)), elements = table.flat_elements(plane);
    plan.parameters += size * (sharded(options, partition) ? elements / partition.shards : elements);
    if (!sharded(options, partition)) continue;
    for (size_t s = 0; s < kSlots; ++s) plan.workspace += size * slot_elements(table, plane, s);
  }
}

}  // namespace dither
