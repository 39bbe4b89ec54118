// Loss on the validation corpus.
#pragma once

#include <cmath>
#include <string>

#include "src/data/tokenizer.h"
#include "src/data/validation_set.h"
#include "src/training/engine.h"

namespace dither {

/// What is judged, as hashes: losses compare where `judged` is the same; else bits per byte do where `text` is.
struct JudgedData {
  std::string judged;     // of the ids of all targets, and of those before them (ValidationSet::fingerprint())
  std::string shards;     // of the validation shards (TokenShards::fingerprint())
  std::string tokenizer;  // of tokenizer.bin; "" : there is none
  std::string text;       // of the bytes of all tokens of the shards; "" : no tokenizer, or not the whole set is judged
  int64_t set_targets = 0;  // of the whole set
};

struct EvaluationResult {
  bool whole = true;           // false: it was broken off, and the rest of this means nothing
  double loss = 0;             // mean over the targets that count, in nats
  double perplexity = 0;       // e^loss
  double bits_per_byte = NAN;  // NaN where no tokenizer says how many bytes a token stands for
  int64_t targets = 0;
  int64_t bytes = 0;  // that the targets stand for; 0 without a tokenizer
  double seconds = 0;
};

class Evaluator {
 public:
  /// Opens config.data.validation (must not be ""). `tokenizer` may be null. Throws Error for bad data.
  Evaluator(const Config& config, const Tokenizer* tokenizer);

  /// Judges what config.evaluation.tokens chooses (validation_set.h), shared among the ranks, which all call it and all
  /// get the result.
  /// With `go_on` it may be broken off between two rounds, and a rank's bad data is told to that instead of thrown.
  EvaluationResult run(Engine& engine, const GoOn& go_on = {});

  const TokenShards& shards() const { return shards_; }
  const JudgedData& data() const { return data_; }

  /// "data/x/val_*.bin: 131,072 of 206,117 targets, 16 segments of up to 8,192"
  std::string description() const;

 private:
  std::string try_read(int64_t first, int64_t rows);

  const int64_t sequence_length_, micro_batch_size_;
  const Tokenizer* tokenizer_;
  TokenShards shards_;
  ValidationSet set_;
  JudgedData data_;
  Batch batch_;
};

}  // namespace dither
