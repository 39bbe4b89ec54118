#include "src/parallel/zero/gradient_sum.h"

namespace dither {

// What ranks sum is a stored gradient (stages 0 and 1, and between copies) or an FP32 contribution (2 and 3).
bool GradientSum::casts(const ZeroOptions& options, const Partition& partition) {
  const bool sums_stored = options.stage < 2 || partition.copies() > 1;
  if (sums_stored && gradient_type(options.gradient) != options.wire) return true;
  return options.stage >= 2 && options.wire != DType::fp32;
}

void GradientSum::plan(const ParameterTable& table, const ZeroOptions& options, const Partition& partition,
                       MemoryPlan& plan) {
  plan.workspace += PartSegments::bytes(table, partition, PartSegments::Own::shard);
  if (casts(options, partition)) plan.workspace += table.largest_part() * size_of(options.wire);
}

GradientSum::GradientSum(const ParameterTable& table, const ZeroOptions& options, RankGroups& ranks, Backend& backend,
                         const StepScalars* scalars, Stream stream)
    : table_(table),
      options_(options),
      ranks_(ranks),
      backend_(backend),
      scalars_(scalars),
      stream_(stream),
      segments_(table, ranks.partition(), PartSegments::Own::shard, backend, stream) {
  if (!casts(options, ranks.partition())) return;
  buffer_ = {backend.allocate(table.largest_part() * size_of(options.wire)), options.wire};
}

GradientSum::~GradientSum() { backend_.free(buffer_.data); }

void GradientSum::over_ranks(int bucket, Plane plane, View part) {
  const Partition& p = ranks_.partition();
  const int64_t elements = table_.extent(bucket, plane).elements;
  const int64_t begin = p.shard_begin(elements), own = p.shard_elements(elements);
  const View summed = part.type == options_.wire ? part : cast(bucket, plane, part, true, RandomStream::gradient_wire);
  const View shard = summed.at(begin);
  if (p.shards > 1) ranks_.group().reduce_scatter(shard, summed, own, stream_);
  if (p.copies() > 1) ranks_.copies().all_reduce(shard, own, stream_);
  if (summed.data != part.data) store(bucket, plane, part.at(begin), shard, true, &scalars_->micro_batches);
}

void GradientSum::over_copies(int bucket, Plane plane, View shard) {
  const Partition& p = ranks_.partition();
  if (p.copies() == 1) return;
  const int64_t own = p.shard_elements(table_.extent(bucket, plane).elements);
  const View summed =
      shard.type == options_.wire ? shard : cast(bucket, plane, shard, false, RandomStream::gradient_accumulation);
  ranks_.copies().all_reduce(summed, own, stream_);
  if (summed.data != shard.data) store(bucket, plane, shard, summed, true, &scalars_->micro_batches);
}

void GradientSum::add_over_group(int bucket, Plane plane, View g, View sum, bool first) {
  const Partition& p = ranks_.partition();
  const int64_t elements = table_.extent(bucket, plane).elements;
  const View summed = options_.wire == DType::fp32 ? g : cast(bucket, plane, g, true, RandomStream::gradient_wire);
  const View shard = summed.at(p.shard_begin(elements));
  if (p.shards > 1) ranks_.group().reduce_scatter(shard, summed, p.shard_elements(elements), stream_);
  store(bucket, plane, sum, shard, first, &scalars_->round);
}

/// A part, or a shard, in the type of the wire. The last round casts both: each has noise of its own. (An FP32 sum
/// draws none when contributions are added.)
View GradientSum::cast(int bucket, Plane plane, View from, bool whole, RandomStream purpose) {
  const SegmentLists::List& segments = whole ? segments_.whole(bucket, plane) : segments_.own(bucket, plane);
  backend_.accumulate({.sum = buffer_,
                       .addend = from,
                       .segments = segments.data,
                       .segment_count = segments.count,
                       .first = true,
                       .rounding = options_.wire == DType::bf16 ? Rounding::stochastic : Rounding::nearest,
                       .seed = options_.seed,
                       .scalars = scalars_,
                       .draw = &scalars_->micro_batch,
                       .purpose = purpose},
                      stream_);
  return buffer_;
}

void GradientSum::store(int bucket, Plane plane, View sum, ConstView addend, bool first, const uint32_t* draw) {
  const SegmentLists::List& segments = segments_.own(bucket, plane);
  backend_.accumulate({.sum = sum,
                       .addend = addend,
                       .segments = segments.data,
                       .segment_count = segments.count,
                       .first = first,
                       .rounding = options_.rounding(),
                       .seed = options_.seed,
                       .scalars = scalars_,
                       .draw = draw},
                      stream_);
}

}  // namespace dither
