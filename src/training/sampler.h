// Text from a model, token by token.
#pragma once

#include <functional>
#include <string>

#include "src/data/tokenizer.h"
#include "src/training/engine.h"

namespace dither {

/// The next token from its logits [V]: temperature (0: the likeliest), then the top_k likeliest (0: all), then the
/// smallest set of likeliest tokens with probability top_p together; `random` (32 bits) picks one. Ties go to lower
/// ids. A logit of -Inf is never drawn, unless all are.
int32_t sample_token(const std::vector<float>& logits, const SamplingConfig& options, uint32_t random);

/// Throws Error where text cannot be sampled: the tokenizer has more tokens than the model, or none for a byte of the
/// prompt.
void check_sampling(const Config& config, const Tokenizer& tokenizer, const std::string& prompt);

/// The prompt continued by options.tokens tokens, or until end of text. Random bits are a function of (config.seed,
/// step, position) alone. The model sees at most the last sequence_length tokens. An empty prompt begins with end of
/// text. Ids that are no token (a model's vocabulary may be larger than its tokenizer's) are never drawn. Throws Error
/// as check_sampling() does, and where logits are not finite. `go_on` is asked before each token is drawn; false breaks
/// off.
std::string generate(Engine& engine, const Tokenizer& tokenizer, const SamplingConfig& options, int64_t step,
                     const GoOn& go_on = {});

}  // namespace dither
