// Runs that are interrupted: saved by some ranks at some ZeRO stage, resumed by the same or by others. Under
// `parallel.reduction: "ordered"` every bit is that of one rank that was never interrupted.
#include <fmt/format.h>

#include <cstdlib>

#include "tests/catch.h"
#include "tests/ranks/ranks_config.h"
#include "tests/ranks/reference.h"

namespace dither {
namespace {

constexpr int64_t kSaved = 2, kSteps = 3;  // the checkpoint is behind step 2

/// All strategies; on a slow device one of each kind of state.
std::vector<StrategyInfo> strategies() {
  if (!slow_device()) return {kStrategies.begin(), kStrategies.end()};
  return {strategy_info(Strategy::bf16_sr), strategy_info(Strategy::collage_plus), strategy_info(Strategy::split32),
          strategy_info(Strategy::mixed)};
}

/// Of all ranks; goes when the last case has ended.
std::string shared_folder() {
  static const TemporaryFolder mine;
  return job().control().broadcast(mine.path());
}

/// The model and the gradient's storage alternate.
Config resume_config(const StrategyInfo& strategy) {
  const int i = static_cast<int>(strategy.id);
  const std::vector<GradientStorage> gradients = gradients_of(strategy);
  Config config = ranks_config(strategy.id, i % 2 == 0 ? Architecture::gpt2 : Architecture::llama,
                               gradients[static_cast<size_t>(i / 2) % gradients.size()]);
  config.parallel.reduction = Reduction::ordered;
  config.batch.tokens_per_step = int64_t{5} * config.batch.micro_batch_size * config.model.sequence_length;
  config.checkpoint.async = i % 3 != 0;
  return config;
}

std::string name_of(const StrategyInfo& strategy, int saved, int resumed) {
  return fmt::format("{}, stage {} to {}", strategy.name, saved, resumed);
}

}  // namespace

// Catches: an array of the state that is not saved, or saved as another type; a shard that lands at another's place; a
// window of the guards, a count of steps or samples that begins anew; weights that were loaded but not gathered; noise
// that depends on how often the process was started.
TEST_CASE("resume: every strategy at every stage goes on with the bits of a run that was never interrupted") {
  int count = 0;
  for (const StrategyInfo& strategy : strategies()) {
    const Reference reference = reference_of(resume_config(strategy), kSteps);
    for (const int stage : {0, 1, 2, 3}) {
      Config config = resume_config(strategy);
      config.parallel.zero_stage = stage;
      INFO(name_of(strategy, stage, stage));
      const std::string folder = shared_folder() + "/" + std::to_string(count++);
      CHECK(unlike(config, reference, kSteps, checkpoint_of(config, kSaved, folder)) == "");
    }
  }
}

// Catches: ranges addressed by rank or by stage instead of by tensor.
TEST_CASE("resume: a checkpoint of one stage is resumed at another with the same bits") {
  const std::pair<int, int> changes[] = {{1, 3}, {3, 1}, {0, 2}, {2, 0}};
  int count = 0;
  for (const StrategyInfo& strategy : strategies()) {
    Config config = resume_config(strategy);
    const Reference reference = reference_of(config, kSteps);
    const auto [saved, resumed] = changes[count % 4];
    INFO(name_of(strategy, saved, resumed));
    config.parallel.zero_stage = saved;
    const std::string path = checkpoint_of(config, kSaved, shared_folder() + "/stages" + std::to_string(count++));
    config.parallel.zero_stage = resumed;
    CHECK(unlike(config, reference, kSteps, path) == "");
  }
}

// Catches: copies of a shard that all write it, or none of them; groups that matter to a checkpoint.
TEST_CASE("resume: groups that share a copy out, and tensors kept in FP32, go on with the same bits") {
  if (job().size() < 4) return;  // groups of two need four ranks
  Config config = resume_config(strategy_info(Strategy::collage_plus));
  config.precision.fp32_parameters = {ParameterKind::norm, ParameterKind::bias, ParameterKind::embedding};
  const Reference reference = reference_of(config, kSteps);
  config.parallel.zero_stage = 2;
  config.parallel.shard_group_size = 2;
  const std::string path = checkpoint_of(config, kSaved, shared_folder() + "/groups");
  CHECK(unlike(config, reference, kSteps, path) == "");
  config.parallel.shard_group_size = 0;
  CHECK(unlike(config, reference, kSteps, path) == "");
}

// The two halves of tests/ranks/reshard.sh, which starts them with different numbers of ranks.
TEST_CASE("reshard: save") {
  const char* folder = std::getenv("DITHER_RESHARD_FOLDER");
  if (folder == nullptr) return;
  for (const StrategyInfo& strategy : strategies()) {
    Config config = resume_config(strategy);
    config.parallel.zero_stage = (static_cast<int>(strategy.id) + 1) % 4;
    checkpoint_of(config, kSaved, std::string(folder) + "/" + strategy.name);
  }
}

// Catches: padding that depends on the number of ranks and is taken for elements, ranges of a rank that is not there.
TEST_CASE("reshard: resume") {
  const char* folder = std::getenv("DITHER_RESHARD_FOLDER");
  if (folder == nullptr) return;
  for (const StrategyInfo& strategy : strategies()) {
    Config config = resume_config(strategy);
    const Reference reference = reference_of(config, kSteps);
    const std::string path = fmt::format("{}/{}/step-{:08}", folder, strategy.name, kSaved);
    for (const int stage : {0, 1, 2, 3}) {
      config.parallel.zero_stage = stage;
      INFO(name_of(strategy, (static_cast<int>(strategy.id) + 1) % 4, stage));
      CHECK(unlike(config, reference, kSteps, path) == "");
    }
  }
}

}  // namespace dither
