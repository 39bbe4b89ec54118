#include "src/commands/common.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/counted.h"
#include "base/error.h"
#include "base/words.h"
#include "src/checkpoint/weights.h"  // read_config()

namespace dither {

namespace fs = std::filesystem;

void add_set_option(CLI::App& command, std::vector<std::string>& assignments) {
  command
      .add_option("--set", assignments, "Override a key of the config, as in optimizer.learning_rate=3e-4; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);  // one value each, so that what follows is not taken for a second one
}

void print_warnings(const std::vector<std::string>& warnings) {
  for (const std::string& warning : warnings) std::fprintf(stderr, "warning: %s\n", visible(warning).c_str());
}

void add_number(CLI::App& command, const std::string& name, double& value, const std::string& meaning,
                const std::string& unit, double most) {
  const auto wrong = [most](const std::string& text) -> std::string {
    char* end = nullptr;
    const double number = std::strtod(text.c_str(), &end);
    const bool fits = !text.empty() && *end == '\0' && number > 0 && number <= most;  // false for nan
    return fits ? "" : fmt::format("{} is no number above 0 and up to {:g}", text, most);
  };
  command.add_option(name, value, meaning)->type_name(unit)->check(CLI::Validator(wrong, ""));
}

std::string weights_file(const std::string& file_or_run) {
  std::error_code unknown;  // a path that cannot be looked at is reported as missing, with its name
  const fs::path path(file_or_run);
  if (fs::is_directory(path, unknown)) {
    const fs::path inside = path / "weights.safetensors";
    if (fs::exists(inside, unknown)) return inside.string();
    throw Error(file_or_run +
                " has no weights.safetensors: training writes it when it ends; name a finished run or a file, or make "
                "one of a checkpoint (dither checkpoint consolidate --weights)");
  }
  if (fs::exists(path, unknown)) return file_or_run;
  throw Error(file_or_run + " does not exist: needs a run's folder or its weights.safetensors");
}

Config config_for_inference(const std::string& weights, const std::vector<std::string>& assignments, int sequences) {
  std::vector<std::string> warnings;
  Config config = read_config(weights, assignments, warnings);
  print_warnings(warnings);
  if (sequences > 0) config.batch.micro_batch_size = sequences;
  config.batch.tokens_per_step = int64_t{config.batch.micro_batch_size} * config.model.sequence_length;
  check_weights(weights, config);
  return config;
}

void check_tokenizer_of(const std::string& weights, const Tokenizer& tokenizer) {
  const std::string trained = read_tokenizer(weights);
  if (trained.empty() || trained == tokenizer.fingerprint()) return;
  throw Error(fmt::format(
      "{}: was trained with another tokenizer than {}: XXH3 {} there, {} here ({}), so the ids "
      "stand for other text\n       cure: data and tokenizer.bin of that run",
      weights, tokenizer.origin(), trained, tokenizer.fingerprint(), counted(tokenizer.vocabulary(), "token")));
}

}  // namespace dither
