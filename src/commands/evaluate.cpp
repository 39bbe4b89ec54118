// dither evaluate WEIGHTS: the loss of trained weights on a corpus.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>

#include "base/error.h"
#include "src/checkpoint/weights.h"
#include "src/commands/commands.h"
#include "src/commands/common.h"
#include "src/training/evaluation.h"

namespace dither {

namespace {

struct Options {
  std::string weights;
  std::string data;
  std::string batches;
  std::vector<std::string> assignments;
};

void evaluate(const Options& options) {
  const std::string weights = weights_file(options.weights);
  // Through --set, so that the range and its message are those of the config's own key.
  std::vector<std::string> assignments = options.assignments;
  if (!options.batches.empty()) assignments.push_back("evaluation.batches=" + options.batches);
  Config config = config_for_inference(weights, assignments, 0);
  if (!options.data.empty()) config.data.validation = options.data;
  if (config.data.validation.empty()) {
    throw Error(weights + ": its config has no data.validation; name token shards with --data");
  }

  // The model's own tokenizer; where only the evaluated shards are at hand, theirs must be the same.
  std::unique_ptr<Tokenizer> tokenizer = tokenizer_beside(config.data.train);
  if (tokenizer == nullptr) tokenizer = tokenizer_beside(config.data.validation);
  Evaluator evaluator(config, tokenizer.get());  // before the engine: bad data is heard before memory is taken
  Engine engine(config);
  read_weights(weights, engine.table(), engine.optimizer());
  engine.publish_weights();
  const EvaluationResult result = evaluator.run(engine);

  fmt::print("weights        {}\n", weights);
  fmt::print("data           {}: {} targets in {:.1f} s\n", config.data.validation, result.targets, result.seconds);
  fmt::print("loss           {:.6f} nats a token\n", result.loss);
  fmt::print("perplexity     {:.4f}\n", result.perplexity);
  fmt::print("bits per byte  {}\n", std::isnan(result.bits_per_byte) ? "unknown: no tokenizer.bin beside the shards"
                                                                     : fmt::format("{:.4f}", result.bits_per_byte));
}

}  // namespace

void add_evaluate_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("evaluate", "Print loss, perplexity and bits per byte of trained weights");
  command->add_option("WEIGHTS", options->weights, "A run's folder, or its weights.safetensors")
      ->type_name("")
      ->required();
  command->add_option("--data", options->data, "Token shards; default: data.validation of the run's config")
      ->type_name("GLOB");
  command->add_option("--batches", options->batches, "Micro-batches; 0: all; default: evaluation.batches of the config")
      ->type_name("N");
  add_set_option(*command, options->assignments);
  command->footer("Example:\n  dither evaluate runs/quickstart --batches 0");
  command->callback([options] { evaluate(*options); });
}

}  // namespace dither
