#include "src/training/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "kernels/numerics/philox.h"

namespace dither {

int32_t sample_token(const std::vector<float>& logits, const SamplingConfig& options, uint32_t random) {
  std::vector<int32_t> order(logits.size());  // likeliest first, ties by id
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  if (options.temperature == 0) return order[0];
  while (order.size() > 1 && logits[static_cast<size_t>(order.back())] == -INFINITY) order.pop_back();
  size_t kept = options.top_k > 0 ? std::min<size_t>(order.size(), static_cast<size_t>(options.top_k)) : order.size();

  std::vector<double> weight(kept);
  const double largest = logits[static_cast<size_t>(order[0])];
  double total = 0;
  for (size_t i = 0; i < kept; ++i) {
    weight[i] = std::exp((logits[static_cast<size_t>(order[i])] - largest) / options.temperature);
    total += weight[i];
  }
  double nucleus = 0;
  for (size_t i = 0; i < kept; ++i) {
    nucleus += weight[i];
    if (nucleus >= options.top_p * total) kept = i + 1;  // ends the loop: i + 1 tokens reach top_p
  }
  double place = (random + 0.5) * 0x1p-32 * std::min(nucleus, total);
  for (size_t i = 0; i < kept; ++i) {
    place -= weight[i];
    if (place < 0) return order[i];
  }
  return order[kept - 1];
}

namespace {

std::vector<int32_t> prompt_ids(const Config& config, const Tokenizer& tokenizer, const std::string& prompt) {
  if (tokenizer.vocabulary() > config.model.vocabulary) {
    throw Error(
        fmt::format("{}: the tokenizer has {} tokens, the model {} (model.vocabulary): they belong to different "
                    "data, and text cannot be sampled",
                    tokenizer.origin(), tokenizer.vocabulary(), config.model.vocabulary));
  }
  std::vector<int32_t> ids = tokenizer.encode(prompt);
  if (ids.empty()) ids.push_back(tokenizer.end_of_text());
  return ids;
}

/// Ids that are no token can have any logit: nothing has trained them but their absence.
void exclude_ids_without_token(const Tokenizer& tokenizer, std::vector<float>& logits) {
  for (size_t id = 0; id < logits.size(); ++id) {
    if (!tokenizer.has_token(static_cast<int32_t>(id))) logits[id] = -INFINITY;
  }
}

}  // namespace

void check_sampling(const Config& config, const Tokenizer& tokenizer, const std::string& prompt) {
  prompt_ids(config, tokenizer, prompt);
}

std::string generate(Engine& engine, const Tokenizer& tokenizer, const SamplingConfig& options, int64_t step,
                     const GoOn& go_on) {
  const Config& config = engine.config();
  std::vector<int32_t> ids = prompt_ids(config, tokenizer, options.prompt);
  const NoiseId noise{.seed = config.seed,
                      .tensor = 0,
                      .step = static_cast<uint32_t>(step),
                      .stream = RandomStream::sampling,
                      .draw = 0};
  const int64_t T = config.model.sequence_length;
  std::vector<int32_t> window;
  std::vector<float> logits;
  for (int i = 0; i < options.tokens; ++i) {
    const int64_t used = std::min<int64_t>(T, static_cast<int64_t>(ids.size()));
    window.assign(ids.end() - used, ids.end());
    // Attention is causal, so what follows the text changes nothing. A few lengths instead of T: few shapes of product.
    window.resize(static_cast<size_t>(std::min(T, (used + 63) / 64 * 64)), 0);
    engine.model().load(window.data(), nullptr, 1, static_cast<int64_t>(window.size()));
    engine.model().forward();
    engine.model().logits(used - 1, logits);
    const bool finite = std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); });
    const std::string failure = finite ? "" : "the model's logits are not finite: nothing can be drawn from them";
    if (go_on && !go_on(failure)) break;
    if (!finite) throw Error(failure);
    exclude_ids_without_token(tokenizer, logits);
    // Ranks on unequal devices may draw differently; what one of them does all must do.
    const auto next = static_cast<int32_t>(engine.from_rank_0(sample_token(logits, options, random_word(noise, i))));
    if (next == tokenizer.end_of_text()) break;
    ids.push_back(next);
  }
  return tokenizer.decode(ids);
}

}  // namespace dither
