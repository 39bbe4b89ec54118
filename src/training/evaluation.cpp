#include "src/training/evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numbers>

#include "base/error.h"
#include "src/data/corpus_tokenizer.h"  // check_tokens()

namespace dither {

Evaluator::Evaluator(const Config& config, const Tokenizer* tokenizer)
    : options_(config.evaluation),
      sequence_length_(config.model.sequence_length),
      micro_batch_size_(config.batch.micro_batch_size),
      tokenizer_(tokenizer),
      shards_(config.data.validation),
      loader_(shards_, loader_options(config, false)) {
  check_tokens(shards_, config.model.vocabulary, tokenizer);  // heard before anything is trained
}

/// The batch, or nullptr and why there is none.
const Batch* Evaluator::try_load(int64_t sample, std::string& failure) {
  try {
    return &loader_.load(sample);
  } catch (const Error& e) {
    failure = e.what();
    return nullptr;
  }
}

EvaluationResult Evaluator::run(Engine& engine, const GoOn& go_on) {
  const auto begin = std::chrono::steady_clock::now();
  const int64_t samples = loader_.samples_per_epoch();
  const int64_t wanted = options_.batches > 0 ? options_.batches * micro_batch_size_ : samples;
  const int64_t end = std::min(samples, wanted);
  const int64_t B = micro_batch_size_, ranks = engine.partition().ranks;
  EvaluationSums own;

  engine.begin_evaluation();
  for (int64_t round = 0; round < end; round += B * ranks) {
    engine.phase(fmt::format("evaluation: sample {} of {}", round, end));
    const int64_t sample = round + engine.partition().rank * B;
    std::string failure;
    const Batch* loaded = sample < end ? try_load(sample, failure) : nullptr;
    if (go_on && !go_on(failure)) return {.whole = false};
    if (!failure.empty()) throw Error(failure);
    if (loaded == nullptr) {
      engine.model().stand_by(false);
      continue;
    }
    const Batch& batch = *loaded;
    if (sample + B * ranks < end) loader_.prefetch(sample + B * ranks);
    const int64_t sequences = std::min(B, end - sample);  // the corpus may end within a micro-batch
    for (int64_t i = 0; i < sequences * sequence_length_; ++i) {
      const int32_t target = batch.targets[static_cast<size_t>(i)];
      if (target == kIgnoredTarget) continue;
      ++own.targets;
      if (tokenizer_ != nullptr) own.bytes += tokenizer_->byte_length(target);
    }
    engine.model().load(batch.tokens.data(), batch.targets.data(), sequences, sequence_length_);
    engine.model().forward();
    engine.model().evaluate(engine.evaluation_sum());
  }

  const EvaluationSums sums = engine.add_evaluation(own);
  EvaluationResult result;
  result.targets = sums.targets;
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
