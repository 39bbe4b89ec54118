// What of a config decides how weights and gradients lie and travel.
#pragma once

#include "src/config/config.h"
#include "src/model/parameter_table.h"
#include "src/parallel/zero/partition.h"

namespace dither {

struct ZeroOptions {
  int stage;  // 0 .. 3
  Reduction reduction;
  DType wire;    // in what gradients travel
  DType weight;  // of the strategy's plane
  GradientStorage gradient;
  int64_t micro_batches;  // of a step, over all ranks
  uint64_t seed;

  DType weight_type(Plane plane) const { return plane == Plane::strategy ? weight : DType::fp32; }
  int64_t rounds(const Partition& p) const { return (micro_batches + p.ranks - 1) / p.ranks; }
  /// How a stored sum is rounded after each contribution.
  Rounding rounding() const {
    const bool draws = gradient == GradientStorage::bf16_sr && (reduction == Reduction::ordered || micro_batches > 1);
    return draws ? Rounding::stochastic : Rounding::nearest;
  }
};

ZeroOptions zero_options(const Config& config);

}  // namespace dither
