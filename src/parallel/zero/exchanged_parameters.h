// ZeRO 2 and 3, and every stage under `ordered`: the gradient of each micro-batch is formed from zero in an FP32
// scratch, and when a bucket is complete its contributions travel to the ranks that own its shards, which add them up
// there.
//
//   ordered     every rank sends everybody their piece (partition.h); the owner folds the contributions of the round in
//               the order of micro-batches, A <- round(A + g_i), in one pass (NUMERICS 10). After the last round the
//               copies of a shard gather its pieces. W = 1 runs the same code without the exchange.
//   bf16, fp32  contributions are summed over the group and the sum is added to the own shard; after the last round
//               shards are summed over the copies.
//
// The exchange of a bucket runs beside the backward of the next one, which uses another scratch (slot_of()).
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "src/parallel/zero/gradient_sum.h"
#include "src/parallel/zero/lane.h"
#include "src/parallel/zero/owned_parts.h"
#include "src/parallel/zero/weight_store.h"

namespace dither {

class ExchangedParameters final : public Parameters {
 public:
  ExchangedParameters(const ParameterTable& table, const ZeroOptions& options, RankGroups& ranks, Backend& backend,
                      const StepScalars* scalars);
  ~ExchangedParameters() override;

  static void plan(const ParameterTable& table, const ZeroOptions& options, const Partition& partition,
                   MemoryPlan& plan);

  const BucketViews& before_forward(int bucket) override;
  const BucketViews& before_backward(int bucket) override;
  void gradients_ready(int bucket) override;
  void release(int bucket) override;

  void begin_micro_batch(const Round& round) override;
  void finish_beside() override;
  const std::vector<OwnedPart>& owned() const override { return owned_; }
  void updated(int64_t part) override;
  void finish_update() override { weights_->finish_update(); }

 private:
  View scratch(int bucket, Plane plane) const;
  View sum(int bucket, Plane plane) const;
  void set_weights(int bucket);
  void fold(int bucket, Plane plane);
  int after(int bucket, bool backward) const;

  const ParameterTable& table_;
  const ZeroOptions options_;
  RankGroups& ranks_;
  Backend& backend_;
  const StepScalars* scalars_;
  Lane lane_;
  std::unique_ptr<WeightStore> weights_;
  PlaneViews sums_;                       // A: the own shard of each bucket, one after the other
  std::array<View, kSlots> scratch_;      // g_i FP32, of the planes of a bucket one after the other
  View wire_;                             // ordered: g_i as it travels, where that is not FP32 [largest part]
  View received_;                         // ordered: the round's contributions to the own piece [ranks, piece]
  std::optional<PartSegments> segments_;  // ordered
  std::optional<GradientSum> sum_;        // bf16, fp32
  std::vector<BucketViews> views_;
  std::vector<OwnedPart> owned_;
  std::vector<PartPlace> places_;
  std::vector<int64_t> piece_begins_;  // of each rank, for the exchange at hand
  Round round_;
};

}  // namespace dither
