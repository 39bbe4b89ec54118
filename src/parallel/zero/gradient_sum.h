// Sums of gradients over ranks in the type of the wire, and how the sum is stored.
//
// Where the stored type is the wire's, the collectives work in place. Else the part is cast into a buffer (widened, or
// rounded stochastically with the draw of this rank's micro-batch: unbiased), summed there, and the own shard of the
// sum is rounded back once, with a draw that all copies share.
#pragma once

#include <vector>

#include "src/model/memory_plan.h"
#include "src/parallel/zero/options.h"
#include "src/parallel/zero/part_segments.h"
#include "src/parallel/zero/rank_groups.h"

namespace dither {

class GradientSum {
 public:
  /// `scalars` (backend memory) is read by roundings. Work goes to `stream`. Throws Error when memory is short.
  GradientSum(const ParameterTable& table, const ZeroOptions& options, RankGroups& ranks, Backend& backend,
              const StepScalars* scalars, Stream stream);
  ~GradientSum();
  GradientSum(const GradientSum&) = delete;
  GradientSum& operator=(const GradientSum&) = delete;

  /// Adds what the constructor would allocate.
  static void plan(const ParameterTable& table, const ZeroOptions& options, const Partition& partition,
                   MemoryPlan& plan);

  /// part [E]: the own shard in it becomes the sum over all ranks; the rest holds anything.
  void over_ranks(int bucket, Plane plane, View part);
  /// shard [E / shards]: becomes the sum over the copies.
  void over_copies(int bucket, Plane plane, View shard);
  /// g [E] FP32, one micro-batch of each rank: sum <- round(sum + sum of g over the group); sum: the own shard.
  void add_over_group(int bucket, Plane plane, View g, View sum, bool first);

 private:
  View cast(int bucket, Plane plane, View from, bool whole, RandomStream purpose);
  void store(int bucket, Plane plane, View sum, ConstView addend, bool first, const uint32_t* draw);
  static bool casts(const ZeroOptions& options, const Partition& partition);

  const ParameterTable& table_;
  const ZeroOptions options_;
  RankGroups& ranks_;
  Backend& backend_;
  const StepScalars* scalars_;
  Stream stream_;
  View buffer_;  // in the wire's type [largest part]; absent where nothing is cast
  PartSegments segments_;
};

}  // namespace dither
