#include "src/parallel/zero/exchanged_parameters.h"

#include <algorithm>

#include "base/error.h"

namespace dither {

namespace {

bool ordered(const ZeroOptions& options) { return options.reduction == Reduction::ordered; }

int bucket_count(const ParameterTable& table) { return static_cast<int>(table.buckets().size()); }

/// Elements of a slot's scratch: both planes of its largest bucket.
int64_t scratch_elements(const ParameterTable& table, size_t slot) {
  int64_t largest = 0;
  for (int b = 0; b < bucket_count(table); ++b) {
    if (slot_of(table, b) == slot) largest = std::max(largest, table.buckets()[static_cast<size_t>(b)].elements());
  }
  return largest;
}

}  // namespace

void ExchangedParameters::plan(const ParameterTable& table, const ZeroOptions& options, const Partition& partition,
                               MemoryPlan& plan) {
  plan_weights(table, options, partition, plan);
  for (const Plane plane : kAllPlanes) {
    plan.gradients += table.flat_elements(plane) / partition.shards * size_of(gradient_type(options.gradient));
  }
  for (size_t s = 0; s < kSlots; ++s) plan.workspace += scratch_elements(table, s) * 4;
  if (!ordered(options)) return GradientSum::plan(table, options, partition, plan);
  plan.workspace += PartSegments::bytes(table, partition, PartSegments::Own::piece);
  if (options.wire != DType::fp32) plan.workspace += table.largest_part() * size_of(options.wire);
  if (partition.ranks > 1) plan.workspace += table.largest_part() * size_of(options.wire);
}

ExchangedParameters::ExchangedParameters(const ParameterTable& table, const ZeroOptions& options, RankGroups& ranks,
                                         Backend& backend, const StepScalars* scalars)
    : table_(table),
      options_(options),
      ranks_(ranks),
      backend_(backend),
      scalars_(scalars),
      lane_(backend, ranks.partition().ranks > 1),
      weights_(make_weight_store(table, options, ranks, backend, lane_)),
      views_(table.buckets().size()),
      piece_begins_(static_cast<size_t>(ranks.partition().ranks)) {
  const Partition& partition = ranks.partition();
  const auto allocate = [&](int64_t elements, DType type) {
    return elements > 0 ? View{backend.allocate(elements * size_of(type)), type} : View();
  };
  for (const Plane plane : kAllPlanes) {
    sums_[static_cast<size_t>(plane)] =
        allocate(table.flat_elements(plane) / partition.shards, gradient_type(options.gradient));
  }
  for (size_t s = 0; s < kSlots; ++s) scratch_[s] = allocate(scratch_elements(table, s), DType::fp32);
  if (ordered(options)) {
    segments_.emplace(table, partition, PartSegments::Own::piece, backend, backend.stream());
    if (options.wire != DType::fp32) wire_ = allocate(table.largest_part(), options.wire);
    if (partition.ranks > 1) received_ = allocate(table.largest_part(), options.wire);
  } else {
    sum_.emplace(table, options, ranks, backend, scalars, lane_.stream());
  }
  owned_ = owned_parts(table, partition, &places_);
  for (size_t i = 0; i < owned_.size(); ++i) {
    owned_[i].weight = weights_->shard(places_[i].bucket)[static_cast<size_t>(places_[i].plane)];
    owned_[i].gradient = sum(places_[i].bucket, places_[i].plane);
  }
}

ExchangedParameters::~ExchangedParameters() {
  for (const View view : sums_) backend_.free(view.data);
  for (const View view : scratch_) backend_.free(view.data);
  for (const View view : {wire_, received_}) backend_.free(view.data);
}

View ExchangedParameters::scratch(int bucket, Plane plane) const {
  return scratch_[slot_of(table_, bucket)].at(
      plane == Plane::strategy ? 0 : table_.extent(bucket, Plane::strategy).elements);
}

View ExchangedParameters::sum(int bucket, Plane plane) const {
  return sums_[static_cast<size_t>(plane)].at(table_.extent(bucket, plane).offset / ranks_.partition().shards);
}

/// The bucket whose weights are needed next, -1 where none are or they are there.
int ExchangedParameters::after(int bucket, bool backward) const {
  const int first = table_.block_bucket(0), final = table_.final_bucket(), positions = table_.position_bucket();
  const int last = table_.block_bucket(table_.layers() - 1);
  if (!backward) {
    if (bucket == table_.embedding_bucket()) return positions >= 0 ? positions : first;
    if (bucket == positions) return first;
    return bucket == last ? final : bucket == final ? -1 : bucket + 1;
  }
  if (bucket == table_.embedding_bucket()) return final;  // tied: the head came first
  return bucket == final ? last : bucket == first ? -1 : bucket - 1;
}

void ExchangedParameters::set_weights(int bucket) {
  const PlaneViews whole = weights_->acquire(bucket);
  BucketViews& views = views_[static_cast<size_t>(bucket)];
  for (const Parameter& p : table_.parameters()) {
    if (p.bucket != bucket) continue;
    views.weights[static_cast<size_t>(p.role)] =
        whole[static_cast<size_t>(p.plane)].at(p.offset - table_.extent(bucket, p.plane).offset);
  }
}

const BucketViews& ExchangedParameters::before_forward(int bucket) {
  set_weights(bucket);
  weights_->prefetch(after(bucket, false));
  return views_[static_cast<size_t>(bucket)];
}

// Backward of an embedding reads no weights; the head, tied or not, does.
const BucketViews& ExchangedParameters::before_backward(int bucket) {
  const bool reads =
      bucket == table_.head_bucket() || (bucket != table_.embedding_bucket() && bucket != table_.position_bucket());
  if (reads) {
    set_weights(bucket);
    weights_->prefetch(after(bucket, true));
  }
  BucketViews& views = views_[static_cast<size_t>(bucket)];
  for (const Parameter& p : table_.parameters()) {
    if (p.bucket != bucket) continue;
    views.gradients[static_cast<size_t>(p.role)] =
        scratch(bucket, p.plane).at(p.offset - table_.extent(bucket, p.plane).offset);
  }
  return views;
}

void ExchangedParameters::release(int bucket) { weights_->release(bucket); }

// The draws in StepScalars are about to change: what reads them must be done.
void ExchangedParameters::begin_micro_batch(const Round& round) {
  round_ = round;
  lane_.join();
}

// Joined before the exchange is given: the next bucket's weights have been asked for and the scratch of the one before
// is free then, while this exchange need not be waited for.
void ExchangedParameters::gradients_ready(int bucket) {
  lane_.join();
  lane_.give();
  for (const Plane plane : kAllPlanes) {
    const int64_t elements = table_.extent(bucket, plane).elements;
    if (elements == 0) continue;
    if (ordered(options_)) {
      fold(bucket, plane);
      continue;
    }
    const View g = scratch(bucket, plane);
    if (!round_.computes) backend_.zero(g.data, elements * size_of(g.type), lane_.stream());
    sum_->add_over_group(bucket, plane, g, sum(bucket, plane), round_.index == 0);
    if (round_.last) sum_->over_copies(bucket, plane, sum(bucket, plane));
  }
}

void ExchangedParameters::fold(int bucket, Plane plane) {
  const Partition& partition = ranks_.partition();
  const int64_t elements = table_.extent(bucket, plane).elements, piece = partition.piece_elements(elements);
  const Stream stream = lane_.stream();
  View g = scratch(bucket, plane);
  if (wire_ && round_.computes) {
    backend_.accumulate({.sum = wire_,
                         .addend = g,
                         .segments = segments_->whole(bucket, plane).data,
                         .segment_count = segments_->whole(bucket, plane).count,
                         .first = true,
                         .rounding = Rounding::stochastic,
                         .seed = options_.seed,
                         .scalars = scalars_,
                         .draw = &scalars_->micro_batch,
                         .purpose = RandomStream::gradient_wire},
                        stream);
  }
  if (wire_) g = wire_;
  const int64_t senders = std::min<int64_t>(partition.ranks, options_.micro_batches - round_.index * partition.ranks);
  if (partition.ranks > 1) {
    for (int r = 0; r < partition.ranks; ++r) {
      piece_begins_[static_cast<size_t>(r)] = partition.piece_begin(elements, r);
    }
    ranks_.world().all_to_all({.to = received_,
                               .to_stride = piece,
                               .from = g,
                               .from_offsets = piece_begins_.data(),
                               .elements = piece,
                               .senders = static_cast<int>(senders)},
                              stream);
    g = received_;
  }
  const View shard = sum(bucket, plane), own = shard.at(partition.copy() * piece);
  backend_.accumulate({.sum = own,
                       .addend = g,
                       .segments = segments_->own(bucket, plane).data,
                       .segment_count = segments_->own(bucket, plane).count,
                       .first = round_.index == 0,
                       .rounding = options_.rounding(),
                       .seed = options_.seed,
                       .scalars = scalars_,
                       .draw = &scalars_->round,
                       .contributions = senders,
                       .stride = piece},
                      stream);
  if (round_.last && partition.copies() > 1) ranks_.copies().all_gather(shard, own, piece, stream);
}

void ExchangedParameters::finish_beside() { lane_.join(); }

void ExchangedParameters::updated(int64_t part) {
  const PartPlace& place = places_[static_cast<size_t>(part)];
  weights_->updated(place.bucket, place.plane);
}

}  // namespace dither
