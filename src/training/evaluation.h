// Loss on the validation corpus.
#pragma once

#include <cmath>
#include <functional>
#include <memory>

#include "src/data/loader.h"
#include "src/data/tokenizer.h"
#include "src/training/engine.h"

namespace dither {

/// Called before each piece of work by all ranks, with why this rank cannot do its own ("" : it can): whether all go
/// on, the same answer on every rank.
using GoOn = std::function<bool(const std::string& failure)>;

struct EvaluationResult {
  bool whole = true;           // false: it was broken off, and the rest of this means nothing
  double loss = 0;             // mean over the targets that count, in nats
  double perplexity = 0;       // e^loss
  double bits_per_byte = NAN;  // NaN where no tokenizer says how many bytes a token stands for
  int64_t targets = 0;
  double seconds = 0;
};

class Evaluator {
 public:
  /// Opens config.data.validation (must not be ""). `tokenizer` may be null. Throws Error for bad data.
  Evaluator(const Config& config, const Tokenizer* tokenizer);

  /// The first config.evaluation.batches micro-batches of the corpus in its order (0: all; a last, smaller one counts),
  /// shared among the ranks, which all call it and all get the result.
  /// With `go_on` it may be broken off between two rounds, and a rank's bad data is told to that instead of thrown.
  EvaluationResult run(Engine& engine, const GoOn& go_on = {});

  const TokenShards& shards() const { return shards_; }

 private:
  const Batch* try_load(int64_t sample, std::string& failure);
  const EvaluationConfig options_;
  const int64_t sequence_length_, micro_batch_size_;
  const Tokenizer* tokenizer_;
  TokenShards shards_;
  Loader loader_;
};

}  // namespace dither
