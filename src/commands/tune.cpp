// dither tune CONFIG: the fastest algorithms of CUDA's matrix products, as a table that runs can use.
#include "src/training/tune.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <memory>

#include "base/error.h"
#include "src/commands/commands.h"
#include "src/commands/common.h"

namespace dither {

namespace {

struct Options {
  std::string config;
  std::string output = "algorithms.json";
  std::vector<std::string> assignments;
};

void tune_to_file(const Options& options) {
  std::vector<std::string> warnings;
  const Config config = load_config(options.config, options.assignments, warnings);
  print_warnings(warnings);
  const std::string table = tune(config);
  std::ofstream file(options.output);
  file << table;
  file.close();
  if (!file) throw Error(options.output + " cannot be written");
  fmt::print("{}: the table for {}; runs use it with --set algorithms={}\n", options.output, config.name,
             options.output);
}

}  // namespace

void add_tune_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("tune", "Measure the algorithms of CUDA's matrix products for a config");
  command->add_option("CONFIG", options->config, "Config file whose shapes are measured")->type_name("")->required();
  command->add_option("--output", options->output, "Where the table goes; default: algorithms.json")->type_name("FILE");
  add_set_option(*command, options->assignments);
  command->footer(
      "The table holds for one kind of device and one version of cuBLASLt; a run refuses another's.\n"
      "Another table means other bits: keep it with the runs that used it (each run's folder has its own).\n\n"
      "Example:\n  dither tune configs/gpt2-124m.json --output algorithms.json\n"
      "  dither train configs/gpt2-124m.json --set algorithms=algorithms.json");
  command->callback([options] { tune_to_file(*options); });
}

}  // namespace dither
