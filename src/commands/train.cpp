// dither train CONFIG: from a config to a run's folder with weights and metrics.
#include "src/training/train.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "src/commands/commands.h"
#include "src/commands/common.h"
#include "src/training/console.h"

namespace dither {

void add_train_command(CLI::App& app) {
  struct Options {
    std::string config;
    std::vector<std::string> assignments;
    TrainOptions train;
  };
  const auto options = std::make_shared<Options>();

  CLI::App* command = app.add_subcommand("train", "Train a model as a JSON config says");
  command->add_option("CONFIG", options->config, "Config file; its keys are listed in docs/configuration.md")
      ->type_name("")
      ->required();
  add_set_option(*command, options->assignments);
  command->add_flag("--overwrite", options->train.overwrite, "Delete an earlier run of the same name");
  command->footer(
      "Leaves runs/<name>/ with config.json, metrics.jsonl, log.txt, checkpoints/ and weights.safetensors.\n"
      "A run of this name that was interrupted goes on from its newest good checkpoint (checkpoint.resume).\n"
      "Ctrl-C (SIGINT), SIGTERM, SIGHUP and SIGUSR1 end the run after the step in progress, with checkpoint and "
      "weights written; a second Ctrl-C, more than a second later, kills it.\n\n"
      "Examples:\n"
      "  dither train configs/quickstart.json --set name=slower --set optimizer.learning_rate=1e-3\n"
      "  mpirun -np 8 dither train configs/gpt2-124m.json --set parallel.zero_stage=1");
  command->callback([options] {
    survive_lost_readers();
    Ranks ranks;
    ranks.run([&] {
      const Config config = load_config(options->config, options->assignments, options->train.warnings);
      train(config, options->train, ranks);
    });
  });
}

}  // namespace dither
