// Training on several ranks with gradients summed in FP32 or BF16, in an order of the transport's: replicas agree to
// the bit, and with one rank to rounding.
#include <fmt/format.h>

#include <set>

#include "tests/catch.h"
#include "tests/ranks/ranks_config.h"
#include "tests/ranks/reference.h"

namespace dither {
namespace {

constexpr int64_t kSteps = 2;

std::string all_stages(Config config, const std::vector<int>& stages, double bound) {
  config.parallel.reduction = Reduction::fp32;
  config.parallel.wire = DType::fp32;
  const Reference reference = reference_of(config, kSteps);
  std::string wrong;
  for (const Reduction reduction : {Reduction::fp32, Reduction::bf16}) {
    for (const int stage : stages) {
      config.parallel.zero_stage = stage;
      config.parallel.reduction = reduction;
      config.parallel.wire = reduction == Reduction::bf16 ? DType::bf16 : DType::fp32;
      const double allowed = reduction == Reduction::bf16 ? std::max(bound, 1e-2) : bound;
      const std::string found = apart(config, reference, kSteps, allowed);
      if (!found.empty()) wrong += fmt::format("{} stage {}:\n{}", name_of(config.parallel.wire), stage, found);
    }
  }
  return wrong;
}

}  // namespace

// Bounds as between one micro-batch and two in tests/training: FP32 differs by the order of sums, BF16 by roundings of
// 2^-9 a gradient. Catches: a mean for a sum, a contribution lost or counted twice, ranks that round with other noise.
TEST_CASE("summed: ranks agree to the bit, and with one rank to rounding, at every stage") {
  const auto bound_of = [](Strategy strategy) {
    return strategy == Strategy::fp32 ? 1e-5 : strategy_info(strategy).gradient == DType::fp32 ? 5e-3 : 1e-2;
  };
  std::set<Strategy> seen;
  for (const MatrixCase& c : matrix()) {
    if (slow_device() && !seen.insert(c.strategy).second) continue;
    INFO(name_of(c));
    CHECK(all_stages(ranks_config(c.strategy, c.architecture, c.gradient), {0, 1, 2, 3}, bound_of(c.strategy)) == "");
  }
}

// Catches: a sum over the group alone, copies that drift apart.
TEST_CASE("summed: groups that share a copy out agree to the bit, and with one rank to rounding") {
  if (job().size() % 2 != 0 || job().size() < 4) return;  // groups of two need four ranks
  for (const GradientStorage gradient : {GradientStorage::bf16_sr, GradientStorage::fp32}) {
    Config config = ranks_config(Strategy::bf16_sr, Architecture::gpt2, gradient);
    config.parallel.shard_group_size = 2;
    CHECK(all_stages(config, {1, 2, 3}, 1e-2) == "");
  }
}

// Catches: a rank without a micro-batch that adds the gradient of the step before.
TEST_CASE("summed: fewer micro-batches than ranks agree with one rank to rounding") {
  Config config = ranks_config(Strategy::fp32, Architecture::gpt2, GradientStorage::fp32);
  config.batch.tokens_per_step = int64_t{config.batch.micro_batch_size} * config.model.sequence_length;
  CHECK(all_stages(config, {0, 1, 2, 3}, 1e-5) == "");
}

}  // namespace dither
