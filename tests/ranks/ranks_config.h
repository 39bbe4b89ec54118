// The model and batch of the tests on several ranks.
#pragma once

#include <cstdlib>
#include <string>
#include <vector>

#include "tests/ranks/reference.h"

namespace dither {

/// Gradient storages that a strategy allows, the default first.
inline std::vector<GradientStorage> gradients_of(const StrategyInfo& strategy) {
  if (strategy.weight == DType::fp32) return {GradientStorage::fp32};
  if (strategy.gradient == DType::fp32) return {GradientStorage::fp32, GradientStorage::bf16_sr};
  return {GradientStorage::bf16_sr, GradientStorage::fp32};
}

/// Kernels on the host take their time: smaller models, and not every strategy with every model and gradient.
inline bool slow_device() { return job_device() == "cuda"; }

struct MatrixCase {
  Strategy strategy;
  Architecture architecture;  // gpt2: tied, llama: untied
  GradientStorage gradient;
};

/// Every strategy with a tied and an untied model and each gradient; on a slow device that of one, and of the others
/// one each, such that all occur.
inline std::vector<MatrixCase> matrix() {
  std::vector<MatrixCase> cases;
  int count = 0;
  for (const StrategyInfo& strategy : kStrategies) {
    const std::vector<GradientStorage> gradients = gradients_of(strategy);
    const int chosen = count++ % (2 * static_cast<int>(gradients.size()));
    int i = 0;
    for (const Architecture architecture : {Architecture::gpt2, Architecture::llama}) {
      for (const GradientStorage gradient : gradients) {
        if (!slow_device() || strategy.id == Strategy::bf16_sr || i == chosen) {
          cases.push_back({strategy.id, architecture, gradient});
        }
        ++i;
      }
    }
  }
  return cases;
}

inline std::string name_of(const MatrixCase& c) {
  return std::string(strategy_info(c.strategy).name) + (c.architecture == Architecture::gpt2 ? ", gpt2" : ", llama") +
         (c.gradient == GradientStorage::fp32 ? ", gradient fp32" : ", gradient bf16_sr");
}

/// parallel.transport of these runs: "auto", unless DITHER_TEST_TRANSPORT says "host".
inline Transport job_transport() {
  const char* name = std::getenv("DITHER_TEST_TRANSPORT");
  return name != nullptr && std::string(name) == "host" ? Transport::host : Transport::automatic;
}

/// tiny_config() with five micro-batches a step (seven on three ranks), so that the last round is uneven on 2, 3 and 4
/// ranks; targets that do not count; a clip that always acts; moments rounded stochastically.
inline Config ranks_config(Strategy strategy, Architecture architecture, GradientStorage gradient) {
  Config config = tiny_config(strategy, architecture);
  config.device = job_device();
  config.parallel.threads = 1;
  config.parallel.transport = job_transport();
  config.data.train = config.data.validation = corpus();
  config.data.ignore_token = 7;
  config.evaluation.tokens = 6 * 24 + 5;  // seven windows, the last one partial
  config.precision.gradient = gradient;
  config.precision.first_moment_rounding = config.precision.second_moment_rounding = Rounding::stochastic;
  config.optimizer.gradient_clip = 0.05;
  config.logging.measure_every_steps = 1;
  if (slow_device()) {
    config.model.hidden = config.model.ffn = 32;
    config.model.heads = config.model.kv_heads = 1;
    config.model.sequence_length = 8;
    config.evaluation.tokens = 11;
  }
  config.batch.micro_batch_size = slow_device() ? 1 : 2;
  config.batch.tokens_per_step =
      (job().size() == 3 ? 7 : 5) * config.batch.micro_batch_size * config.model.sequence_length;
  return config;
}

}  // namespace dither
