// What of a corpus training can see: samples are windows within a shard (loader.h), so short shards and ends of shards
// are in none.
#pragma once

#include <cstdint>
#include <string>

#include "src/data/token_shards.h"

namespace dither {

/// Windows of T + 1 tokens in a shard of so many tokens: each shares its last token with the next one.
inline int64_t windows_in(int64_t tokens, int64_t T) { return tokens > 0 ? (tokens - 1) / T : 0; }

struct Coverage {
  int64_t samples = 0;        // of T targets each
  int64_t unseen_tokens = 0;  // in no sample
  int64_t short_shards = 0;   // without a sample
};

Coverage coverage_of(const TokenShards& shards, int64_t T);

/// That more than a percent of the tokens are in no sample, with the reason and the cure; "" otherwise.
std::string unseen_tokens_warning(const TokenShards& shards, int64_t T);

}  // namespace dither
