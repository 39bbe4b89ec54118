// dither evaluate WEIGHTS: the loss of trained weights on a corpus.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "base/counted.h"
#include "base/error.h"
#include "base/printable.h"
#include "src/commands/commands.h"
#include "src/commands/common.h"
#include "src/commands/trained_weights.h"
#include "src/data/corpus_tokenizer.h"
#include "src/training/evaluation.h"

namespace dither {

namespace {

struct Options {
  std::string weights;
  std::string data;
  std::string tokens, batches;
  std::vector<std::string> assignments;
};

/// That of the evaluated shards, which must be the model's; where they have none, that of the training shards.
std::optional<Tokenizer> tokenizer_for(const TrainedWeights& weights, const Config& config) {
  std::optional<Tokenizer> own = tokenizer_of(config.data.validation), trained = tokenizer_of(config.data.train);
  // Weights of older programs do not say with which tokenizer they were trained: then the training shards do.
  if (own && trained && weights.tokenizer.empty()) check_same_tokenizer(*trained, *own);
  if (!own) own = std::move(trained);
  if (own) check_tokenizer(weights, *own);
  return own;
}

/// Why a loss has no bits per byte.
std::string lacks_bytes(const Config& config, bool tokenizer) {
  if (tokenizer) return "unknown: none of the targets stands for a byte of text";
  return fmt::format("unknown: there is no {}", tokenizer_path_beside(config.data.validation));
}

void evaluate(const Options& options) {
  const TrainedWeights weights = find_weights(options.weights);
  warn_of_passed(weights);
  // Through --set, so that the range and its message are those of the config's own key.
  std::vector<std::string> assignments = {"evaluation.tokens=0"};
  assignments.insert(assignments.end(), options.assignments.begin(), options.assignments.end());
  if (!options.tokens.empty()) assignments.push_back("evaluation.tokens=" + options.tokens);
  Config config = config_for_inference(weights, assignments, 0);
  if (!options.batches.empty()) {
    const int64_t B = config.batch.micro_batch_size, T = config.model.sequence_length;
    throw Error(
        fmt::format("--batches {}: the option has been replaced by --tokens N, targets that are judged\n       "
                    "cure: --tokens; a batch of this run has {} x {} = {} (no option: the whole set)",
                    options.batches, B, T, B * T));
  }
  if (!options.data.empty()) config.data.validation = options.data;
  if (config.data.validation.empty()) {
    throw Error(weights.path + ": its config has no data.validation; name token shards with --data");
  }

  const std::optional<Tokenizer> tokenizer = tokenizer_for(weights, config);
  Evaluator evaluator(
      config, tokenizer ? &*tokenizer : nullptr);  // before the engine: bad data is heard before memory is taken
  Engine engine(config);
  load_weights(weights, engine);
  const EvaluationResult result = evaluator.run(engine);
  if (!std::isfinite(result.loss)) {
    throw Error(weights.path + ": the loss is not finite, although all weights are: activations overflow");
  }

  fmt::print("weights        {}\n", visible(weights.description()));
  fmt::print("data           {}    {} counted in {:.1f} s\n", visible(evaluator.description()),
             with_commas(result.targets), result.seconds);
  fmt::print("loss           {:.6f} nats a token\n", result.loss);
  fmt::print("perplexity     {:.4f}\n", result.perplexity);
  fmt::print("bits per byte  {}\n", std::isnan(result.bits_per_byte) ? lacks_bytes(config, tokenizer.has_value())
                                                                     : fmt::format("{:.4f}", result.bits_per_byte));
}

}  // namespace

void add_evaluate_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("evaluate", "Print loss, perplexity and bits per byte of trained weights");
  command->add_option("WEIGHTS", options->weights, kWeightsMeaning)->type_name("")->required();
  command->add_option("--data", options->data, "Token shards; default: data.validation of the run's config")
      ->type_name("GLOB");
  command
      ->add_option("--tokens", options->tokens, "Targets to judge, spaced evenly over the data; default: all of them")
      ->type_name("N");
  command->add_option("--batches", options->batches)->group("");  // hidden: refused with what replaces it
  add_set_option(*command, options->assignments);
  command->footer("Example:\n  dither evaluate runs/quickstart --tokens 131072");
  command->callback([options] { evaluate(*options); });
}

}  // namespace dither
