// dither plan CONFIG: memory, traffic and time on so many ranks, before any device is touched.
#include "src/planning/plan.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "base/error.h"
#include "src/commands/commands.h"
#include "src/commands/common.h"
#include "src/planning/report.h"
#include "src/training/agreement.h"  // idle_ranks_warning()
#include "src/training/engine.h"     // uses_cuda()

namespace dither {

namespace {

struct Options {
  std::string config;
  std::vector<std::string> assignments;
  InputChoice inputs;
  int ranks = 1;
  double tokens_per_second = 0;
  bool json = false, markdown = false, list_inputs = false;
};

void plan(Options options) {
  if (options.list_inputs) return fmt::print("{}", inputs_page());
  if (options.config.empty()) throw Error("plan: no CONFIG given; dither plan --help shows what is allowed");
  std::vector<std::string> warnings;
  Config config = load_config(options.config, options.assignments, warnings);
  print_warnings(warnings);
  InputChoice& choice = options.inputs;
  if (choice.device.empty()) choice.device = uses_cuda(config) ? "h100" : "cpu";
  config.device = device_inputs(choice.device).cuda ? "cuda" : "cpu";
  if (options.tokens_per_second > 0) {
    const double seconds = static_cast<double>(config.batch.tokens_per_step) / options.tokens_per_second;
    choice.assignments.push_back(fmt::format("one_rank_step_seconds={}", seconds));
  }
  const std::string idle = idle_ranks_warning(config, options.ranks);
  if (!idle.empty()) print_warnings({idle});
  const ScalePlan result = plan_scale(config, options.ranks, choice);
  fmt::print("{}", options.json ? json_of(result) : options.markdown ? markdown_of(result) : text_of(result));
}

}  // namespace

void add_plan_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("plan", "Memory, traffic and predicted time of a config on many ranks");
  command->add_option("CONFIG", options->config, "Config file; its keys are listed in docs/configuration.md")
      ->type_name("");
  add_set_option(*command, options->assignments);
  command->add_option("--ranks", options->ranks, "Ranks of the job; default: 1")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 16));
  command->add_option("--ranks-per-node", options->inputs.ranks_per_node, "Default: 8 GPUs, or all CPU ranks")
      ->type_name("M")
      ->check(CLI::Range(1, 1 << 16));
  command
      ->add_option("--interconnect", options->inputs.links,
                   "Inside nodes and between them, as in nvlink4+ndr400; --list-inputs shows what is known")
      ->type_name("NAMES");
  command->add_option("--device", options->inputs.device, "h100 or cpu; default: as the config's device")
      ->type_name("NAME");
  command
      ->add_option("--input", options->inputs.assignments,
                   "Override a number that predictions are made from; repeatable")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  constexpr double kMostTokensPerSecond = 1e15;
  add_number(*command, "--tokens-per-second", options->tokens_per_second,
             "Measured on one rank with this config; predictions start from it", "X", kMostTokensPerSecond);
  command->add_flag("--json", options->json, "All figures, as JSON");
  command->add_flag("--markdown", options->markdown, "The table of stages, as in docs/scaling.md");
  command->add_flag("--list-inputs", options->list_inputs, "All inputs, devices and links with their sources");
  command->footer(
      "Times are predictions: docs/scaling.md says by which formulas, and how to check them.\n\n"
      "Examples:\n"
      "  dither plan configs/gpt2-124m.json\n"
      "  dither plan configs/llama-2-7b.json --device h100 --ranks 64 --set parallel.zero_stage=2");
  command->callback([options] { plan(*options); });
}

}  // namespace dither
