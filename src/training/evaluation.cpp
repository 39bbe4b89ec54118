#include "src/training/evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numbers>
#include <vector>

#include "base/checksum.h"
#include "base/counted.h"
#include "base/error.h"
#include "src/config/computation.h"     // hash_text()
#include "src/data/corpus_tokenizer.h"  // check_tokens()

namespace dither {

namespace {

/// XXH3 of the bytes that all tokens of the shards stand for: the same for each tokenizer that loses nothing.
std::string text_hash(const TokenShards& shards, const Tokenizer& tokenizer, int64_t vocabulary) {
  constexpr int64_t kTokensAtOnce = 65536;
  Checksum checksum;
  std::vector<int32_t> ids;
  for (int64_t shard = 0; shard < shards.shards(); ++shard) {
    for (int64_t first = 0; first < shards.tokens(shard); first += kTokensAtOnce) {
      ids.resize(static_cast<size_t>(std::min(kTokensAtOnce, shards.tokens(shard) - first)));
      shards.read(shard, first, static_cast<int64_t>(ids.size()), vocabulary, ids.data());
      std::erase(ids, tokenizer.end_of_text());
      const std::string text = tokenizer.decode(ids);
      checksum.add(text.data(), text.size());
    }
  }
  return checksum_text(checksum.value());
}

}  // namespace

Evaluator::Evaluator(const Config& config, const Tokenizer* tokenizer)
    : sequence_length_(config.model.sequence_length),
      micro_batch_size_(config.batch.micro_batch_size),
      tokenizer_(tokenizer),
      shards_(config.data.validation),
      set_(shards_, {.wanted = config.evaluation.tokens,
                     .sequence_length = sequence_length_,
                     .vocabulary = config.model.vocabulary,
                     .ignore_token = config.data.ignore_token}) {
  check_tokens(shards_, config.model.vocabulary, tokenizer);  // heard before anything is trained
  data_.judged = set_.fingerprint();
  data_.shards = hash_text(shards_.fingerprint());
  data_.set_targets = set_.all_targets();
  if (tokenizer == nullptr) return;
  data_.tokenizer = tokenizer->fingerprint();
  if (set_.is_whole()) data_.text = text_hash(shards_, *tokenizer, config.model.vocabulary);
}

std::string Evaluator::description() const {
  return fmt::format("{}: {} of {} targets, {} of up to {}{}", shards_.pattern(),
                     set_.is_whole() ? "all" : with_commas(set_.targets()), with_commas(set_.all_targets()),
                     counted(static_cast<int64_t>(set_.segments().size()), "segment"),
                     with_commas(set_.segment_length()),
                     set_.segment_length() > kSegmentTargets ? " (model.sequence_length)" : "");
}

/// Reads windows into the batch; "" or why it cannot.
std::string Evaluator::try_read(int64_t first, int64_t rows) {
  try {
    set_.read(first, rows, batch_);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

EvaluationResult Evaluator::run(Engine& engine, const GoOn& go_on) {
  const auto begin = std::chrono::steady_clock::now();
  const int64_t windows = set_.windows(), B = micro_batch_size_, ranks = engine.partition().ranks;
  EvaluationSums own;

  engine.begin_evaluation();
  for (int64_t round = 0; round < windows; round += B * ranks) {
    engine.phase(fmt::format("evaluation: window {} of {}", round, windows));
    const int64_t first = round + engine.partition().rank * B;
    const int64_t rows = std::min(B, windows - first);  // the set may end within a micro-batch
    const std::string failure = rows > 0 ? try_read(first, rows) : "";
    if (go_on && !go_on(failure)) return {.whole = false};
    if (!failure.empty()) throw Error(failure);
    if (rows <= 0) {
      engine.model().stand_by(false);
      continue;
    }
    own.targets += batch_.counted_targets;
    for (const int32_t target : batch_.targets) {
      if (tokenizer_ != nullptr && target != kIgnoredTarget) own.bytes += tokenizer_->byte_length(target);
    }
    engine.model().load(batch_.tokens.data(), batch_.targets.data(), rows, sequence_length_);
    engine.model().forward();
    engine.model().evaluate(engine.evaluation_sum());
  }

  const EvaluationSums sums = engine.add_evaluation(own);
  EvaluationResult result;
  result.targets = sums.targets;
  result.bytes = sums.bytes;
  if (result.targets == 0) throw Error(shards_.pattern() + ": no target counts: data.ignore_token hides all of them");
  result.loss = sums.loss.value() / static_cast<double>(result.targets);
  result.perplexity = std::exp(result.loss);
  if (sums.bytes > 0) {
    result.bits_per_byte = sums.loss.value() / std::numbers::ln2 / static_cast<double>(sums.bytes);
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace dither
