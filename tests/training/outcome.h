// A short run of the training loop and everything that it left: what was logged, and the bits of its whole state.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "src/training/trainer.h"
#include "tests/training/tiny_run.h"

namespace dither {

/// A run of some steps: what it logged, and the bits of its whole state.
struct Outcome {
  std::vector<StepRecord> records;
  std::vector<char> state;

  bool same_bits(const Outcome& other) const {
    if (records.size() != other.records.size() || state != other.state) return false;
    for (size_t i = 0; i < records.size(); ++i) {
      const StepRecord &a = records[i], &b = other.records[i];
      if (a.loss != b.loss || a.gradient_norm != b.gradient_norm || a.clip_factor != b.clip_factor) return false;
      if (a.measures.model.edq != b.measures.model.edq) return false;
      if (a.measures.model.edq_full != b.measures.model.edq_full) return false;
      if (a.measures.model.imprecision != b.measures.model.imprecision) return false;
    }
    return true;
  }
};

inline std::vector<char> state_of(Engine& engine) {
  int64_t total = 0;
  for (const StateArray& array : engine.optimizer().state()) total += array.elements * size_of(array.view.type);
  std::vector<char> bytes(static_cast<size_t>(total));
  char* next = bytes.data();
  for (const StateArray& array : engine.optimizer().state()) {
    const int64_t size = array.elements * size_of(array.view.type);
    engine.backend().copy_to_host(next, array.view.data, size, engine.stream());
    next += size;
  }
  engine.backend().synchronize(engine.stream());
  return bytes;
}

/// Trains the tiny corpus for some steps; `backend`: another one than the config's.
inline Outcome run(const Config& config, int64_t steps, std::unique_ptr<Backend> backend = nullptr) {
  const TemporaryFolder folder;
  const TokenShards shards(write_shard(folder.path() + "/train.bin", 4000, 61));
  Engine engine(config, backend ? std::move(backend) : make_backend(config));
  engine.initialise();
  Trainer trainer(engine, shards);
  Outcome outcome;
  for (int64_t i = 0; i < steps; ++i) outcome.records.push_back(trainer.step().record);
  outcome.state = state_of(engine);
  return outcome;
}

}  // namespace dither
