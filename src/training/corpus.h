// What a run learns from, and what it is held to before the first step.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "src/checkpoint/manifest.h"  // DataIdentity
#include "src/config/config.h"
#include "src/data/token_shards.h"
#include "src/data/tokenizer.h"

namespace dither {

struct Corpus {
  /// Opens data.train and the tokenizer beside its shards (or beside those of data.validation, which must have the
  /// same). Throws Error for bad data.
  explicit Corpus(const Config& config);

  const Tokenizer* tokenizer_or_null() const { return tokenizer ? &*tokenizer : nullptr; }

  TokenShards shards;                  // training
  std::optional<Tokenizer> tokenizer;  // a corpus may come without one
  DataIdentity identity;
};

/// Throws Error where an id is no token, or where the config asks for samples that cannot be made. Reads a corpus that
/// takes no more than some seconds to read; of a larger one tokens are checked when they are read.
const Corpus& checked(const Corpus& corpus, const Config& config);

/// The line of the start-up table.
std::string data_text(const Config& config, const Corpus& corpus, int64_t first_sample);

/// What is not wrong but may not be meant. `validation` may be null.
std::vector<std::string> corpus_warnings(const Config& config, const Corpus& corpus, const TokenShards* validation);

}  // namespace dither
