// ZeRO 0 and 1 without `ordered`: every rank sums the gradients of its own micro-batches in plain memory; during its
// last backward each bucket is summed over ranks, beside the computation of the next. Stage 1 updates a shard and
// gathers the weights.
#pragma once

#include <vector>

#include "src/model/plain_parameters.h"
#include "src/parallel/zero/gradient_sum.h"
#include "src/parallel/zero/lane.h"
#include "src/parallel/zero/owned_parts.h"

namespace dither {

class ReducedParameters final : public Parameters {
 public:
  ReducedParameters(const ParameterTable& table, const ZeroOptions& options, RankGroups& ranks, Backend& backend,
                    const StepScalars* scalars);

  static void plan(const ParameterTable& table, const ZeroOptions& options, const Partition& partition,
                   MemoryPlan& plan);

  const BucketViews& before_forward(int bucket) override { return plain_.before_forward(bucket); }
  const BucketViews& before_backward(int bucket) override { return plain_.before_backward(bucket); }
  void gradients_ready(int bucket) override;
  void release(int bucket) override { plain_.release(bucket); }

  void begin_micro_batch(const Round& round) override;
  void finish_beside() override { lane_.join(); }
  const std::vector<OwnedPart>& owned() const override { return owned_; }
  void updated(int64_t part) override;
  void finish_update() override { lane_.join(); }

 private:
  const ParameterTable& table_;
  RankGroups& ranks_;
  PlainParameters plain_;
  Lane lane_;
  GradientSum sum_;
  std::vector<OwnedPart> owned_;
  std::vector<PartPlace> places_;  // of the owned parts
  Round round_;
};

}  // namespace dither
