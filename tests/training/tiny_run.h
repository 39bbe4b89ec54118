// A tiny model and corpus for the tests of the training loop.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "src/config/config.h"
#include "src/data/token_shards.h"

namespace dither {

/// A fresh folder that goes when the test ends.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    static std::atomic<int> count{0};
    path_ = (std::filesystem::temp_directory_path() /
             ("dither-training-" + std::to_string(getpid()) + "-" + std::to_string(count++)))
                .string();
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// A 16-bit shard of a text that can be learned: the ids count up from a start that wanders.
inline std::string write_shard(const std::string& path, int64_t tokens, int vocabulary) {
  std::vector<int32_t> header(256, 0);
  header[0] = static_cast<int32_t>(kShardMagic16);
  header[1] = static_cast<int32_t>(kShardVersion16);
  header[2] = static_cast<int32_t>(tokens);
  std::vector<uint16_t> body;
  uint32_t state = 12345;
  for (int64_t i = 0; i < tokens; ++i) {
    if (i % 11 == 0) state = state * 1664525u + 1013904223u;
    body.push_back(
        static_cast<uint16_t>(((state >> 20) + static_cast<uint32_t>(i % 11)) % static_cast<uint32_t>(vocabulary)));
  }
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(header.data()), 1024);
  file.write(reinterpret_cast<const char*>(body.data()), static_cast<std::streamsize>(2 * body.size()));
  return path;
}

/// 2 layers, 64 wide, 61 tokens; a step is 8 sequences of 24 tokens in one micro-batch.
inline Config tiny_config(Strategy strategy, Architecture architecture = Architecture::llama) {
  Config c;
  c.name = "tiny";
  c.seed = 7;
  c.steps = 60;
  c.data.train = "train.bin";
  c.parallel.threads = 2;
  c.model.architecture = architecture;
  c.model.layers = 2;
  c.model.hidden = 64;
  c.model.heads = 2;
  c.model.kv_heads = 1;
  c.model.head_size = 32;
  c.model.ffn = 96;
  c.model.vocabulary = 61;
  c.model.sequence_length = 24;
  if (architecture == Architecture::gpt2) {
    c.model.kv_heads = 2;
    c.model.normalization = Normalization::layer_norm;
    c.model.positions = Positions::learned;
    c.model.activation = Activation::gelu;
    c.model.linear_bias = true;
    c.model.tied_embeddings = true;
  }
  c.batch.micro_batch_size = 8;
  c.batch.tokens_per_step = 8 * 24;
  const StrategyInfo& info = strategy_info(strategy);
  c.precision.strategy = strategy;
  c.precision.gradient = info.gradient == DType::fp32 ? GradientStorage::fp32 : GradientStorage::bf16_sr;
  c.precision.first_moment = info.first_moment;
  c.precision.second_moment = info.second_moment;
  c.precision.residual = info.weight;
  c.precision.compute = info.compute;
  c.optimizer.learning_rate = 5e-3;
  c.optimizer.schedule.kind = ScheduleKind::constant;
  c.optimizer.schedule.warmup_steps = 5;
  c.logging.measure_every_steps = 5;
  return c;
}

}  // namespace dither
