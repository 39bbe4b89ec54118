// Weights and gradients in plain memory of one backend.
//
// Gradients are a left fold over the micro-batches of a step that this process computes: micro-batch i forms its
// contribution g_i from zero, then A <- round(A + g_i) (NUMERICS 10). Where that needs no second buffer the product
// writes A directly:
//   FP32 storage: the first micro-batch of a step (A = g_0 exactly)
//   BF16 storage: a step of one micro-batch (A = the product's own RN), but for the head's bucket, whose chunks add up
// Else g_i lies in an FP32 scratch: one for the bucket at hand, and one of its own for a tied embedding, which stays
// open from the head to the end of backward. A bucket's scratch has its part in the strategy's plane first, then that
// in the FP32 plane.
#pragma once

#include <optional>
#include <vector>

#include "kernels/backend.h"
#include "src/model/memory_plan.h"
#include "src/model/parameters.h"
#include "src/model/segment_lists.h"

namespace dither {

class PlainParameters final : public Parameters {
 public:
  struct Options {
    DType weight;  // of the strategy's plane
    GradientStorage gradient;
    int64_t micro_batches;  // of a step, at most, that this process computes
    uint64_t seed;
  };
  /// `scalars` (backend memory) is read by the accumulation. Throws Error when memory is short.
  PlainParameters(const ParameterTable& table, const Options& options, Backend& backend, const StepScalars* scalars,
                  Stream stream);
  ~PlainParameters() override;
  PlainParameters(const PlainParameters&) = delete;
  PlainParameters& operator=(const PlainParameters&) = delete;

  /// Adds what the constructor would allocate.
  static void plan(const ParameterTable& table, const Options& options, MemoryPlan& plan);

  const FlatArrays& weights() const { return weights_; }
  const FlatArrays& gradients() const { return gradients_; }

  /// One part a plane: all of it.
  static std::vector<OwnedPart> owned_parts(const ParameterTable& table);

  void begin_micro_batch(const Round& round) override { round_ = round; }
  void finish_beside() override {}
  const std::vector<OwnedPart>& owned() const override { return owned_; }
  void updated(int64_t /*part*/) override {}
  void finish_update() override {}
  const BucketViews& before_forward(int bucket) override;
  const BucketViews& before_backward(int bucket) override;
  void gradients_ready(int bucket) override;
  void release(int bucket) override;

 private:
  bool direct(int bucket) const;
  /// The scratch of a bucket's part in a plane.
  View scratch(int bucket, Plane plane) const;
  static int64_t scratch_elements(const ParameterTable& table, const Options& options, int64_t* shared);

  const ParameterTable& table_;
  Options options_;
  Backend& backend_;
  const StepScalars* scalars_;
  Stream stream_;
  FlatArrays weights_, gradients_;
  View scratch_;  // FP32 [shared | tied embedding]
  int64_t tied_offset_ = 0;
  std::vector<BucketViews> views_;
  std::optional<SegmentLists> segments_;  // of each bucket and plane
  std::vector<OwnedPart> owned_;
  Round round_;
};

}  // namespace dither
