#include "src/commands/common.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "base/counted.h"
#include "base/error.h"
#include "src/checkpoint/weights.h"  // read_config()

namespace dither {

namespace fs = std::filesystem;

void add_set_option(CLI::App& command, std::vector<std::string>& assignments) {
  command
      .add_option("--set", assignments, "Override a key of the config, as in optimizer.learning_rate=3e-4; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);  // one value each, so that what follows is not taken for a second one
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
  for (const std::string& warning : warnings) std::fprintf(stderr, "warning: %s\n", warning.c_str());
  if (sequences > 0) config.batch.micro_batch_size = sequences;
  config.batch.tokens_per_step = int64_t{config.batch.micro_batch_size} * config.model.sequence_length;
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
