#include "src/model/plain_parameters.h"

#include <algorithm>

#include "base/error.h"

namespace dither {

namespace {

DType weight_type(Plane plane, const PlainParameters::Options& options) {
  return plane == Plane::strategy ? options.weight : DType::fp32;
}

/// Of each bucket and plane: index bucket * kPlanes + plane.
std::vector<std::vector<Segment>> bucket_lists(const ParameterTable& table) {
  std::vector<std::vector<Segment>> lists;
  for (int b = 0; b < static_cast<int>(table.buckets().size()); ++b) {
    for (const Plane plane : kAllPlanes) lists.push_back(table.bucket_segments(b, plane));
  }
  return lists;
}

}  // namespace

// FP32 elements of the scratch, and of its part that all buckets but a tied embedding share.
int64_t PlainParameters::scratch_elements(const ParameterTable& table, const Options& options, int64_t* shared) {
  const bool several = options.micro_batches > 1;
  const bool fp32 = options.gradient == GradientStorage::fp32;
  int64_t largest = 0, tied = 0;
  for (int b = 0; b < static_cast<int>(table.buckets().size()); ++b) {
    const int64_t elements = table.buckets()[static_cast<size_t>(b)].elements();
    const bool head = b == table.head_bucket();
    if (!several && (fp32 || !head)) continue;
    if (head && table.tied()) {
      tied = elements;
    } else {
      largest = std::max(largest, elements);
    }
  }
  *shared = largest;
  return largest + tied;
}

void PlainParameters::plan(const ParameterTable& table, const Options& options, MemoryPlan& plan) {
  int64_t shared = 0;
  for (const Plane plane : kAllPlanes) {
    plan.parameters += table.flat_elements(plane) * size_of(weight_type(plane, options));
    plan.gradients += table.flat_elements(plane) * size_of(gradient_type(options.gradient));
  }
  plan.workspace += scratch_elements(table, options, &shared) * 4 + SegmentLists::bytes(bucket_lists(table));
}

PlainParameters::PlainParameters(const ParameterTable& table, const Options& options, Backend& backend,
                                 const StepScalars* scalars, Stream stream)
    : table_(table), options_(options), backend_(backend), scalars_(scalars), stream_(stream) {
  const auto allocate = [&](FlatArrays& arrays, Plane plane, DType type) {
    const int64_t elements = table.flat_elements(plane);
    if (elements > 0) arrays.planes[static_cast<size_t>(plane)] = {backend.allocate(elements * size_of(type)), type};
  };
  for (const Plane plane : kAllPlanes) {
    allocate(weights_, plane, weight_type(plane, options));
    allocate(gradients_, plane, gradient_type(options.gradient));
  }
  const int64_t scratch = scratch_elements(table, options, &tied_offset_);
  if (scratch > 0) scratch_ = {backend.allocate(scratch * 4), DType::fp32};

  segments_.emplace(bucket_lists(table), backend, stream);
  views_.resize(table.buckets().size());
  for (const Parameter& p : table.parameters()) {
    views_[static_cast<size_t>(p.bucket)].weights[static_cast<size_t>(p.role)] = weights_.at(p);
  }
  owned_ = owned_parts(table);
  for (OwnedPart& part : owned_) {
    part.weight = weights_.plane(part.plane);
    part.gradient = gradients_.plane(part.plane);
  }
}

std::vector<OwnedPart> PlainParameters::owned_parts(const ParameterTable& table) {
  std::vector<OwnedPart> parts;
  for (const Plane plane : kAllPlanes) {
    const int64_t elements = table.flat_elements(plane);
    if (elements > 0) parts.push_back({plane, elements, table.segments(plane), {}, {}});
  }
  return parts;
}

PlainParameters::~PlainParameters() {
  for (const Plane plane : kAllPlanes) {
    for (const View view : {weights_.plane(plane), gradients_.plane(plane)}) {
      if (view) backend_.free(view.data);
    }
  }
  if (scratch_) backend_.free(scratch_.data);
}

bool PlainParameters::direct(int bucket) const {
  if (options_.gradient == GradientStorage::fp32) return round_.index == 0;
  return options_.micro_batches == 1 && bucket != table_.head_bucket();
}

View PlainParameters::scratch(int bucket, Plane plane) const {
  const Bucket& b = table_.buckets()[static_cast<size_t>(bucket)];
  const bool tied = table_.tied() && bucket == table_.head_bucket();
  return scratch_.at((tied ? tied_offset_ : 0) + (plane == Plane::strategy ? 0 : b.extents[0].elements));
}

const BucketViews& PlainParameters::before_forward(int bucket) { return views_[static_cast<size_t>(bucket)]; }

const BucketViews& PlainParameters::before_backward(int bucket) {
  BucketViews& views = views_[static_cast<size_t>(bucket)];
  const Bucket& b = table_.buckets()[static_cast<size_t>(bucket)];
  for (const Parameter& p : table_.parameters()) {
    if (p.bucket != bucket) continue;
    views.gradients[static_cast<size_t>(p.role)] =
        direct(bucket) ? gradients_.at(p) : scratch(bucket, p.plane).at(p.offset - b.extent(p.plane).offset);
  }
  return views;
}

// A rank that computes nothing in a step's first round has to begin with zero.
void PlainParameters::gradients_ready(int bucket) {
  if (!round_.computes) {
    if (round_.index > 0) return;
    for (const Plane plane : kAllPlanes) {
      const Extent& extent = table_.extent(bucket, plane);
      const View sum = gradients_.plane(plane);
      if (extent.elements > 0) backend_.zero(sum.at(extent.offset).data, extent.elements * size_of(sum.type), stream_);
    }
    return;
  }
  if (direct(bucket)) return;
  const bool stochastic = options_.gradient == GradientStorage::bf16_sr && options_.micro_batches > 1;
  for (const Plane plane : kAllPlanes) {
    const SegmentLists::List& list = (*segments_)[static_cast<size_t>(bucket) * kPlanes + static_cast<size_t>(plane)];
    if (list.count == 0) continue;
    const Extent& extent = table_.extent(bucket, plane);
    backend_.accumulate({.sum = gradients_.plane(plane).at(extent.offset),
                         .addend = scratch(bucket, plane),
                         .segments = list.data,
                         .segment_count = list.count,
                         .first = round_.index == 0,
                         .rounding = stochastic ? Rounding::stochastic : Rounding::nearest,
                         .seed = options_.seed,
                         .scalars = scalars_,
                         .draw = &scalars_->micro_batch},
                        stream_);
  }
}

void PlainParameters::release(int bucket) {
  DITHER_ASSERT(bucket >= 0 && bucket < static_cast<int>(views_.size()));  // plain memory stays where it is
}

}  // namespace dither
