#include "src/model/plain_parameters.h"

#include <algorithm>

#include "base/error.h"

namespace dither {

namespace {

DType gradient_type(GradientStorage storage) { return storage == GradientStorage::fp32 ? DType::fp32 : DType::bf16; }

int64_t segment_bytes(const ParameterTable& table) {
  return static_cast<int64_t>(table.parameters().size() * sizeof(Segment));
}

}  // namespace

// FP32 elements of the scratch, and of its part that all buckets but a tied embedding share.
int64_t PlainParameters::scratch_elements(const ParameterTable& table, const Options& options, int64_t* shared) {
  const bool several = options.micro_batches > 1;
  const bool fp32 = options.gradient == GradientStorage::fp32;
  int64_t largest = 0, tied = 0;
  for (int b = 0; b < static_cast<int>(table.buckets().size()); ++b) {
    const int64_t elements = table.buckets()[static_cast<size_t>(b)].elements;
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
  plan.parameters += table.flat_elements() * size_of(options.weight);
  plan.gradients += table.flat_elements() * size_of(gradient_type(options.gradient));
  plan.workspace += scratch_elements(table, options, &shared) * 4 + segment_bytes(table);
}

PlainParameters::PlainParameters(const ParameterTable& table, const Options& options, Backend& backend,
                                 const StepScalars* scalars, Stream stream)
    : table_(table), options_(options), backend_(backend), scalars_(scalars), stream_(stream) {
  const int64_t elements = table.flat_elements();
  const DType gradient = gradient_type(options.gradient);
  weights_ = {backend.allocate(elements * size_of(options.weight)), options.weight};
  gradients_ = {backend.allocate(elements * size_of(gradient)), gradient};
  const int64_t scratch = scratch_elements(table, options, &tied_offset_);
  if (scratch > 0) scratch_ = {backend.allocate(scratch * 4), DType::fp32};

  segment_memory_ = static_cast<Segment*>(backend.allocate(segment_bytes(table)));
  Segment* next = segment_memory_;
  views_.resize(table.buckets().size());
  for (int b = 0; b < static_cast<int>(table.buckets().size()); ++b) {
    const std::vector<Segment> list = table.bucket_segments(b);
    const int64_t count = static_cast<int64_t>(list.size());
    backend.copy_from_host(next, list.data(), count * static_cast<int64_t>(sizeof(Segment)), stream);
    segments_.push_back(next);
    segment_counts_.push_back(count);
    next += count;
  }
  backend.synchronize(stream);  // the lists above live on this stack
  for (const Parameter& p : table.parameters()) {
    views_[static_cast<size_t>(p.bucket)].weights[static_cast<size_t>(p.role)] = weights_.at(p.offset);
  }
}

PlainParameters::~PlainParameters() {
  for (void* memory : {weights_.data, gradients_.data, scratch_.data, static_cast<void*>(segment_memory_)}) {
    if (memory != nullptr) backend_.free(memory);
  }
}

bool PlainParameters::direct(int bucket) const {
  if (options_.gradient == GradientStorage::fp32) return micro_batch_ == 0;
  return options_.micro_batches == 1 && bucket != table_.head_bucket();
}

const BucketViews& PlainParameters::before_forward(int bucket) { return views_[static_cast<size_t>(bucket)]; }

const BucketViews& PlainParameters::before_backward(int bucket) {
  BucketViews& views = views_[static_cast<size_t>(bucket)];
  const int64_t begin = table_.buckets()[static_cast<size_t>(bucket)].offset;
  const bool tied = table_.tied() && bucket == table_.head_bucket();
  for (const Parameter& p : table_.parameters()) {
    if (p.bucket != bucket) continue;
    views.gradients[static_cast<size_t>(p.role)] =
        direct(bucket) ? gradients_.at(p.offset) : scratch_.at((tied ? tied_offset_ : 0) + p.offset - begin);
  }
  return views;
}

void PlainParameters::gradients_ready(int bucket) {
  if (direct(bucket)) return;
  const bool tied = table_.tied() && bucket == table_.head_bucket();
  const bool stochastic = options_.gradient == GradientStorage::bf16_sr && options_.micro_batches > 1;
  backend_.accumulate({.sum = gradients_.at(table_.buckets()[static_cast<size_t>(bucket)].offset),
                       .addend = scratch_.at(tied ? tied_offset_ : 0),
                       .segments = segments_[static_cast<size_t>(bucket)],
                       .segment_count = segment_counts_[static_cast<size_t>(bucket)],
                       .first = micro_batch_ == 0,
                       .rounding = stochastic ? Rounding::stochastic : Rounding::nearest,
                       .seed = options_.seed,
                       .scalars = scalars_},
                      stream_);
}

void PlainParameters::release(int bucket) {
  DITHER_ASSERT(bucket >= 0 && bucket < static_cast<int>(views_.size()));  // plain memory stays where it is
}

}  // namespace dither
