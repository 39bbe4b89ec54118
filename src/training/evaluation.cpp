#include "src/training/evaluation.h"

#include <algorithm>
#include <chrono>
#include <numbers>

#include "base/error.h"

namespace dither {

Evaluator::Evaluator(const Config& config, const Tokenizer* tokenizer)
    : options_(config.evaluation),
      sequence_length_(config.model.sequence_length),
      micro_batch_size_(config.batch.micro_batch_size),
      tokenizer_(tokenizer),
      shards_(config.data.validation),
      loader_(shards_, loader_options(config, false)) {
  shards_.check(config.model.vocabulary);  // heard before anything is trained
}

EvaluationResult Evaluator::run(Engine& engine) {
  const auto begin = std::chrono::steady_clock::now();
  const int64_t samples = loader_.samples_per_epoch();
  const int64_t wanted = options_.batches > 0 ? options_.batches * micro_batch_size_ : samples;
  const int64_t end = std::min(samples, wanted);
  EvaluationResult result;
  int64_t bytes = 0;

  engine.backend().zero(engine.evaluation_sum(), sizeof(ExactSum), engine.stream());
  for (int64_t sample = 0; sample < end; sample += micro_batch_size_) {
    const Batch& batch = loader_.load(sample);
    if (sample + micro_batch_size_ < end) loader_.prefetch(sample + micro_batch_size_);
    const int64_t B = std::min(micro_batch_size_, end - sample);  // the corpus may end within a micro-batch
    for (int64_t i = 0; i < B * sequence_length_; ++i) {
      const int32_t target = batch.targets[static_cast<size_t>(i)];
      if (target == kIgnoredTarget) continue;
      ++result.targets;
      if (tokenizer_ != nullptr) bytes += tokenizer_->byte_length(target);
    }
    engine.model().load(batch.tokens.data(), batch.targets.data(), B, sequence_length_);
    engine.model().forward();
    engine.model().evaluate(engine.evaluation_sum());
  }

  ExactSum sum;
  engine.backend().copy_to_host(&sum, engine.evaluation_sum(), sizeof(sum), engine.stream());
  engine.backend().synchronize(engine.stream());
  if (result.targets == 0) throw Error(shards_.pattern() + ": no target counts: data.ignore_token hides all of them");
  result.loss = sum.value() / static_cast<double>(result.targets);
  result.perplexity = std::exp(result.loss);
  if (bytes > 0) result.bits_per_byte = sum.value() / std::numbers::ln2 / static_cast<double>(bytes);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace dither
