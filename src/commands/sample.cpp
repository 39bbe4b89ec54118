// dither sample WEIGHTS: text from trained weights.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/printable.h"
#include "src/commands/commands.h"
#include "src/commands/common.h"
#include "src/commands/trained_weights.h"
#include "src/data/corpus_tokenizer.h"
#include "src/training/sampler.h"

namespace dither {

namespace {

/// An option that stands for a key of the config: through --set it has the key's own range and messages.
struct KeyOption {
  const char* option;
  const char* key;
  const char* value;
  const char* meaning;
};

constexpr KeyOption kKeyOptions[] = {
    {"--tokens", "sampling.tokens", "N", "Tokens to add; fewer where the text ends before"},
    {"--temperature", "sampling.temperature", "X", "Divides the logits; 0: always the likeliest token"},
    {"--top-k", "sampling.top_k", "N", "Only the N likeliest tokens; 0: all"},
    {"--top-p", "sampling.top_p", "P", "Only the likeliest tokens that make up probability P; 1: all"},
    {"--seed", "seed", "N", "Same seed, same text"},
};

struct Options {
  std::string weights;
  std::string tokenizer;
  std::string prompt;
  bool prompt_given = false;
  std::string values[std::size(kKeyOptions)];
  std::vector<std::string> assignments;
};

Tokenizer tokenizer_for(const Options& options, const Config& config) {
  if (!options.tokenizer.empty()) return Tokenizer(options.tokenizer);
  std::optional<Tokenizer> tokenizer = tokenizer_of(config.data.train);
  if (tokenizer) return std::move(*tokenizer);
  throw Error(tokenizer_path_beside(config.data.train) +
              " does not exist: the tokenizer beside the run's training shards; name it with --tokenizer");
}

void sample(const Options& options) {
  const TrainedWeights weights = find_weights(options.weights);
  warn_of_passed(weights);
  std::vector<std::string> assignments = options.assignments;
  for (size_t i = 0; i < std::size(kKeyOptions); ++i) {
    if (!options.values[i].empty()) assignments.push_back(std::string(kKeyOptions[i].key) + "=" + options.values[i]);
  }
  Config config = config_for_inference(weights, assignments, 1);
  if (options.prompt_given) config.sampling.prompt = options.prompt;  // as it is, never read as JSON

  const Tokenizer tokenizer = tokenizer_for(options, config);
  check_tokenizer(weights, tokenizer);
  check_sampling(config, tokenizer, config.sampling.prompt);  // before memory is taken
  Engine engine(config);
  load_weights(weights, engine);
  fmt::print(stderr, "weights: {}\n", visible(weights.description()));  // standard output has the text alone
  fmt::print("{}\n", printable(generate(engine, tokenizer, config.sampling, 0)));
}

}  // namespace

void add_sample_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("sample", "Continue a text with trained weights");
  command->add_option("WEIGHTS", options->weights, kWeightsMeaning)->type_name("")->required();
  CLI::Option* prompt = command->add_option("--prompt", options->prompt, "Text to continue")->type_name("TEXT");
  for (size_t i = 0; i < std::size(kKeyOptions); ++i) {
    command->add_option(kKeyOptions[i].option, options->values[i], kKeyOptions[i].meaning)
        ->type_name(kKeyOptions[i].value);
  }
  command->add_option("--tokenizer", options->tokenizer, "tokenizer.bin; default: the one beside the training shards")
      ->type_name("FILE");
  add_set_option(*command, options->assignments);
  command->footer(
      "What is not given comes from the run's config (section sampling, and seed).\n\n"
      "Example:\n"
      "  dither sample runs/quickstart --prompt 'In the beginning' --tokens 300 --temperature 0.7");
  command->callback([options, prompt] {
    options->prompt_given = prompt->count() > 0;
    sample(*options);
  });
}

}  // namespace dither
