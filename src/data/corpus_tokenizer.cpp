#include "src/data/corpus_tokenizer.h"

#include <fmt/format.h>

#include <filesystem>
#include <set>

#include "base/error.h"

namespace dither {

std::optional<Tokenizer> tokenizer_of(const std::string& pattern) {
  std::set<std::string> paths;  // one for each folder
  for (const std::string& shard : matching_files(pattern)) paths.insert(tokenizer_path_beside(shard));
  if (paths.empty()) paths.insert(tokenizer_path_beside(pattern));  // the shards are gone, or on another machine
  std::optional<Tokenizer> found;
  for (const std::string& path : paths) {
    std::error_code unknown;
    if (!std::filesystem::exists(path, unknown)) continue;
    Tokenizer tokenizer(path);
    if (found) check_same_tokenizer(*found, tokenizer);
    if (!found) found = std::move(tokenizer);
  }
  return found;
}

std::optional<Tokenizer> tokenizer_of(const std::string& train, const std::string& validation) {
  std::optional<Tokenizer> found = tokenizer_of(train);
  if (validation.empty()) return found;
  std::optional<Tokenizer> other = tokenizer_of(validation);
  if (found && other) check_same_tokenizer(*found, *other);
  return found ? std::move(found) : std::move(other);
}

void check_same_tokenizer(const Tokenizer& one, const Tokenizer& other) {
  if (one.fingerprint() == other.fingerprint()) return;
  throw Error(fmt::format(
      "{} and {} differ: {} tokens, XXH3 {}, and {} tokens, XXH3 {}: the ids of one corpus stand for other "
      "text in the other\n       cure: make both corpora with the same tokenizer",
      one.origin(), other.origin(), one.vocabulary(), one.fingerprint(), other.vocabulary(), other.fingerprint()));
}

void check_tokens(const TokenShards& shards, int64_t vocabulary, const Tokenizer* tokenizer) {
  if (tokenizer == nullptr || tokenizer->vocabulary() >= vocabulary) return shards.check(vocabulary);
  try {
    shards.check(tokenizer->vocabulary());
  } catch (const DataError& e) {
    shards.check(vocabulary);  // then the model is too small as well: its message is the better one
    throw Error(fmt::format("{}\n       {} has {} tokens: it is not the tokenizer of this shard", e.what(),
                            tokenizer->origin(), tokenizer->vocabulary()));
  }
}

}  // namespace dither
