#include "src/training/corpus.h"

#include <fmt/format.h>

#include "base/counted.h"
#include "base/error.h"
#include "src/config/computation.h"  // hash_text()
#include "src/data/corpus_tokenizer.h"
#include "src/data/coverage.h"
#include "src/data/shared_text.h"
#include "src/training/sampler.h"

namespace dither {

namespace {

/// Sampling can be refused before anything is trained.
void check_sampling(const Config& config, const std::optional<Tokenizer>& tokenizer) {
  if (config.sampling.every_steps == 0) return;
  if (!tokenizer) {
    throw Error(tokenizer_path_beside(config.data.train) +
                " does not exist: sampling.every_steps needs the tokenizer beside the training shards");
  }
  check_sampling(config, *tokenizer, config.sampling.prompt);
}

}  // namespace

Corpus::Corpus(const Config& config)
    : shards(config.data.train),
      tokenizer(tokenizer_of(config.data.train, config.data.validation)),
      identity{hash_text(shards.fingerprint()), tokenizer ? tokenizer->fingerprint() : ""} {}

const Corpus& checked(const Corpus& corpus, const Config& config) {
  constexpr int64_t kCheckedWhole = 2'000'000'000;
  if (corpus.shards.tokens() <= kCheckedWhole) {
    check_tokens(corpus.shards, config.model.vocabulary, corpus.tokenizer_or_null());
  }
  check_sampling(config, corpus.tokenizer);
  return corpus;
}

std::string data_text(const Config& config, const Corpus& corpus, int64_t first_sample) {
  const TokenShards& shards = corpus.shards;
  const int64_t T = config.model.sequence_length, samples = coverage_of(shards, T).samples;
  const double seen = static_cast<double>(config.steps) * static_cast<double>(config.batch.tokens_per_step);
  const bool all = unseen_tokens_warning(shards, T).empty();
  return fmt::format("{}: {}, {}{}; {} see {:.2f} of them    from sample {}, seed {}", shards.pattern(),
                     counted(shards.shards(), "shard"), counted(shards.tokens(), "token"),
                     all ? "" : fmt::format(", {} of them in samples", with_commas(samples * T)),
                     counted(config.steps, "step"), seen / static_cast<double>(samples * T), with_commas(first_sample),
                     config.seed);
}

std::vector<std::string> corpus_warnings(const Config& config, const Corpus& corpus, const TokenShards* validation) {
  std::vector<std::string> warnings = {unseen_tokens_warning(corpus.shards, config.model.sequence_length)};
  if (validation != nullptr) warnings.push_back(shared_text_warning(corpus.shards, *validation));
  if (corpus.tokenizer && corpus.tokenizer->vocabulary() > config.model.vocabulary) {
    warnings.push_back(
        fmt::format("{} has {} tokens, model.vocabulary is {}: a shard with one of the others ends the run",
                    corpus.tokenizer->origin(), corpus.tokenizer->vocabulary(), config.model.vocabulary));
  }
  std::erase(warnings, "");
  return warnings;
}

}  // namespace dither
