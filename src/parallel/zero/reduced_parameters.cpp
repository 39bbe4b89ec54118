#include "src/parallel/zero/reduced_parameters.h"

namespace dither {

namespace {

PlainParameters::Options local_options(const ZeroOptions& options, const Partition& partition) {
  return {.weight = options.weight,
          .gradient = options.gradient,
          .micro_batches = options.rounds(partition),
          .seed = options.seed};
}

}  // namespace

void ReducedParameters::plan(const ParameterTable& table, const ZeroOptions& options, const Partition& partition,
                             MemoryPlan& plan) {
  PlainParameters::plan(table, local_options(options, partition), plan);
  GradientSum::plan(table, options, partition, plan);
}

ReducedParameters::ReducedParameters(const ParameterTable& table, const ZeroOptions& options, RankGroups& ranks,
                                     Backend& backend, const StepScalars* scalars)
    : table_(table),
      ranks_(ranks),
      plain_(table, local_options(options, ranks.partition()), backend, scalars, backend.stream()),
      lane_(backend, ranks.partition().ranks > 1),
      sum_(table, options, ranks, backend, scalars, lane_.stream()) {
  const Partition& partition = ranks.partition();
  owned_ = owned_parts(table, partition, &places_);
  for (size_t i = 0; i < owned_.size(); ++i) {
    const Extent& extent = table.extent(places_[i].bucket, places_[i].plane);
    const int64_t begin = extent.offset + partition.shard_begin(extent.elements);
    owned_[i].weight = plain_.weights().plane(places_[i].plane).at(begin);
    owned_[i].gradient = plain_.gradients().plane(places_[i].plane).at(begin);
  }
}

void ReducedParameters::begin_micro_batch(const Round& round) {
  round_ = round;
  plain_.begin_micro_batch(round);
}

void ReducedParameters::gradients_ready(int bucket) {
  plain_.gradients_ready(bucket);
  if (!round_.last) return;
  lane_.give();
  for (const Plane plane : kAllPlanes) {
    const Extent& extent = table_.extent(bucket, plane);
    if (extent.elements > 0) sum_.over_ranks(bucket, plane, plain_.gradients().plane(plane).at(extent.offset));
  }
}

void ReducedParameters::updated(int64_t part) {
  const Partition& partition = ranks_.partition();
  if (partition.shards == 1) return;
  const PartPlace& place = places_[static_cast<size_t>(part)];
  const Extent& extent = table_.extent(place.bucket, place.plane);
  lane_.give();
  ranks_.group().all_gather(plain_.weights().plane(place.plane).at(extent.offset),
                            owned_[static_cast<size_t>(part)].weight, partition.shard_elements(extent.elements),
                            lane_.stream());
}

}  // namespace dither
