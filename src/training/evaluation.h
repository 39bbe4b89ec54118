// Loss on the validation corpus.
#pragma once

#include <cmath>
#include <memory>

#include "src/data/loader.h"
#include "src/data/tokenizer.h"
#include "src/training/engine.h"

namespace dither {

struct EvaluationResult {
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
  EvaluationResult run(Engine& engine);

  const TokenShards& shards() const { return shards_; }

 private:
  const EvaluationConfig options_;
  const int64_t sequence_length_, micro_batch_size_;
  const Tokenizer* tokenizer_;
  TokenShards shards_;
  Loader loader_;
};

}  // namespace dither
