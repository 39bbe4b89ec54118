// Training on several ranks under `parallel.reduction: "ordered"`: every bit is that of one rank.
#include <fmt/format.h>

#include "tests/catch.h"
#include "tests/ranks/ranks_config.h"
#include "tests/ranks/reference.h"

namespace dither {
namespace {

constexpr int64_t kSteps = 2;  // the second one starts from state that the first has written

/// Stages in the order in which they share out more.
std::string all_stages(Config config, const std::vector<int>& stages) {
  config.parallel.reduction = Reduction::ordered;
  const Reference reference = reference_of(config, kSteps);
  std::string wrong;
  for (const LoggedStep& step : reference.steps) {
    if (!(step.clip_factor < 1)) wrong += "nothing was clipped: the case is too weak\n";
  }
  for (const int stage : stages) {
    config.parallel.zero_stage = stage;
    const std::string found = unlike(config, reference, kSteps);
    if (!found.empty()) wrong += fmt::format("stage {}:\n{}", stage, found);
  }
  return wrong;
}

}  // namespace

// Catches: a sum whose order depends on ranks, a rank that computes another's micro-batch or none in an uneven last
// round, noise addressed by shard or rank, gradients or weights exchanged for the wrong bucket or too early, a shard
// cut inside a leaf of a sum, a tied embedding reduced before its last use, padding that counts, a clip factor of one
// rank.
TEST_CASE("ordered: every strategy at every stage has the bits of one rank") {
  for (const MatrixCase& c : matrix()) {
    INFO(name_of(c));
    CHECK(all_stages(ranks_config(c.strategy, c.architecture, c.gradient), {0, 1, 2, 3}) == "");
  }
}

// Catches: noise of the wire that depends on the rank, an exchange in the wrong type.
TEST_CASE("ordered: gradients that travel as BF16 have the bits of one rank too") {
  for (const Strategy strategy : {Strategy::bf16_sr, Strategy::mixed, Strategy::fp32}) {
    Config config = ranks_config(strategy, Architecture::gpt2, GradientStorage::fp32);
    config.parallel.wire = DType::bf16;
    INFO(strategy_info(strategy).name);
    CHECK(all_stages(config, {0, 1, 2, 3}) == "");
  }
}

// Without measures no collective stands between the update and the next forward. Catches: a plane that is not
// exchanged, gathered or padded, weights that are used before they have been gathered.
TEST_CASE("ordered: tensors kept in FP32 beside BF16 ones have the bits of one rank") {
  for (const Architecture architecture : {Architecture::gpt2, Architecture::llama}) {
    Config config = ranks_config(Strategy::collage_plus, architecture, GradientStorage::bf16_sr);
    config.precision.fp32_parameters = {ParameterKind::norm, ParameterKind::bias, ParameterKind::embedding};
    config.logging.measure_every_steps = 0;
    CHECK(all_stages(config, {0, 1, 2, 3}) == "");
  }
}

// Catches: pieces of a shard given to the wrong copy, copies that are not gathered, a norm that counts copies twice.
TEST_CASE("ordered: groups that share a copy out have the bits of one rank") {
  if (job().size() % 2 != 0 || job().size() < 4) return;  // groups of two need four ranks
  for (const Strategy strategy : {Strategy::bf16_sr, Strategy::mixed, Strategy::collage_plus, Strategy::split32}) {
    Config config = ranks_config(strategy, Architecture::gpt2, gradients_of(strategy_info(strategy)).front());
    config.parallel.shard_group_size = 2;
    INFO(strategy_info(strategy).name);
    CHECK(all_stages(config, {1, 2, 3}) == "");
  }
}

// Catches: ranks without any micro-batch that send what they hold from the step before.
TEST_CASE("ordered: fewer micro-batches than ranks have the bits of one rank") {
  Config config = ranks_config(Strategy::bf16_sr, Architecture::llama, GradientStorage::bf16_sr);
  config.batch.tokens_per_step = int64_t{config.batch.micro_batch_size} * config.model.sequence_length;
  CHECK(all_stages(config, {0, 1, 2, 3}) == "");
}

}  // namespace dither
