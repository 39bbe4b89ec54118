// Which tokenizer a corpus has: the tokenizer.bin in the folder of its shards, which must be one and the same for all
// shards that a run reads.
#pragma once

#include <optional>
#include <string>

#include "src/data/token_shards.h"
#include "src/data/tokenizer.h"

namespace dither {

/// The tokenizer in the folders of the shards that a path or glob names; none where no folder has one. Throws Error: a
/// damaged one, two folders with different ones.
std::optional<Tokenizer> tokenizer_of(const std::string& pattern);

/// The tokenizer of training and validation shards (validation may be ""): that of training, or of validation where
/// training has none. Throws Error naming both files where they differ.
std::optional<Tokenizer> tokenizer_of(const std::string& train, const std::string& validation);

/// Throws Error naming both where one is not the other: ids of one corpus would mean something else in the other.
void check_same_tokenizer(const Tokenizer& one, const Tokenizer& other);

/// TokenShards::check() against the model's vocabulary and, where there is one, the tokenizer's: an id without a token
/// is a fault of the data, even where the model has room for it.
void check_tokens(const TokenShards& shards, int64_t vocabulary, const Tokenizer* tokenizer);

}  // namespace dither
