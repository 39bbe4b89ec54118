// dither bench CONFIG: how fast every operation and a whole step are, beside what the device could do.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <memory>

#include "base/error.h"
#include "src/benchmark/rank_figures.h"
#include "src/benchmark/report.h"
#include "src/commands/commands.h"
#include "src/commands/common.h"
#include "src/parallel/ranks.h"
#include "src/training/agreement.h"
#include "src/training/node_memory.h"

namespace dither {

namespace {

constexpr int64_t kCpuTokens = 2048;  // of a step on the CPU: seconds rather than the hour of half a million

struct Options {
  std::string config;  // "" : kDefaultConfig
  std::vector<std::string> assignments;
  std::vector<std::string> operations;
  std::string json;
  bool quick = false, ranks = false;
};

Config load(const std::string& path, const std::vector<std::string>& assignments, std::vector<std::string>& warnings) {
  if (path.empty()) return parse_config(default_bench_config(), "bench's default config", assignments, warnings);
  return load_config(path, assignments, warnings);
}

/// The config; on the CPU, unless the batch was chosen with --set, with a step of at most kCpuTokens.
Config config_of(const Options& options) {
  std::vector<std::string> warnings;
  const Config config = load(options.config, options.assignments, warnings);
  print_warnings(warnings);
  const auto chooses_batch = [](const std::string& text) { return text.rfind("batch.", 0) == 0; };
  const bool chosen = std::any_of(options.assignments.begin(), options.assignments.end(), chooses_batch);
  if (uses_cuda(config) || chosen || config.batch.tokens_per_step <= kCpuTokens) return config;
  const int64_t T = config.model.sequence_length;
  const int64_t sequences = std::clamp<int64_t>(kCpuTokens / T, 1, config.batch.micro_batch_size);
  std::vector<std::string> assignments = options.assignments;
  assignments.push_back(fmt::format("batch.micro_batch_size={}", sequences));
  assignments.push_back(fmt::format("batch.tokens_per_step={}", sequences * T));
  return load(options.config, assignments, warnings);
}

void print_now(const std::string& text) {
  fmt::print("{}", text);
  std::fflush(stdout);
}

/// Opened before anything is measured, so that a wrong path costs no time.
std::ofstream open_for_writing(const std::string& path) {
  std::ofstream file(path);
  if (!file) throw Error(path + " cannot be written");
  return file;
}

void close(std::ofstream& file, const std::string& path) {
  file.close();
  if (!file) throw Error(path + " cannot be written");
}

/// Every rank of the job does it; the first one speaks.
void bench_ranks(const Options& options) {
  Ranks ranks;
  ranks.run([&] {
    const Config config = config_of(options);
    demand_same_config(ranks.control(), config);
    ranks.control().watch(config.parallel.timeout_seconds);
    std::ofstream file;
    if (ranks.speaks() && !options.json.empty()) file = open_for_writing(options.json);
    Engine engine(config, make_backend(config, ranks.gpu(config.parallel), ranks.environment().local_ranks),
                  [&](Backend& backend) {
                    demand_fitting_devices(ranks.control(), config, backend);
                    demand_fitting_memory(ranks.control(), config, backend);
                    return ranks.communicator(config.parallel, backend, uses_cuda(config));
                  });
    engine.on_phase([&](const std::string& name) { ranks.control().phase(name); });
    const RankFigures figures = measure_ranks(engine, options.quick ? kQuick : Effort{});
    if (!ranks.speaks()) return;
    print_now(text_of(figures));
    if (options.json.empty()) return;
    file << json_of(figures);
    close(file, options.json);
  });
}

void bench(const Options& options) {
  if (options.ranks) return bench_ranks(options);
  const Effort effort = options.quick ? kQuick : Effort{};
  BenchmarkReport report;
  report.quick = options.quick;
  report.config = config_of(options);
  report.parameters = ParameterTable(report.config).counted_elements();
  const std::vector<Case> cases = chosen_cases(report.config, options.operations);
  std::ofstream file;
  if (!options.json.empty()) file = open_for_writing(options.json);

  auto owned = std::make_unique<TimedBackend>(make_backend(report.config));
  TimedBackend& backend = *owned;
  report.device = backend.description();
  report.ceilings = measure_ceilings(backend, report.config.precision.compute, effort);
  print_now(heading_of(report));
  for (const Case& c : cases) {
    report.operations.push_back(measure(backend, c, report.ceilings, effort));
    print_now(line_of(report.operations.back()));
  }
  if (options.operations.empty()) {
    Engine engine(report.config, std::move(owned));
    report.step = measure_step(engine, backend, report.ceilings, effort.step_seconds);
    report.has_step = true;
    print_now(step_table_of(report));
  }
  if (options.json.empty()) return;
  file << json_of(report);
  close(file, options.json);
}

}  // namespace

const char* default_bench_config() {
  return R"({"name": "gpt2-124m", "steps": 19073, "model": {"preset": "gpt2-124m"},
    "data": {"train": "data/fineweb/train_*.bin"}, "batch": {"tokens_per_step": 524288, "micro_batch_size": 32},
    "precision": {"strategy": "mixed"}, "optimizer": {"learning_rate": 6e-4, "betas": [0.9, 0.95],
    "weight_decay": 0.1, "gradient_clip": 1.0,
    "schedule": {"kind": "cosine", "warmup_steps": 700, "final_fraction": 0.1}}})";
}

void add_bench_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("bench", "Time every operation and a whole step against the device's limits");
  command
      ->add_option("CONFIG", options->config,
                   "Config that says model, types and batch; default: that of configs/gpt2-124m.json")
      ->type_name("");
  command->add_option("--operation", options->operations, "Only this operation, and no step; repeatable")
      ->type_name("NAME")
      ->allow_extra_args(false);
  command->add_option("--json", options->json, "Write every figure to this file too")->type_name("FILE");
  command->add_flag("--quick", options->quick, "Little time and memory: shows that everything runs, not how fast");
  command->add_flag("--ranks", options->ranks,
                    "Collectives and whole steps of the ranks that a launcher starts, instead of operations");
  add_set_option(*command, options->assignments);
  command->footer(
      "Needs no data: tokens and tensors are random. docs/benchmarking.md explains the columns.\n"
      "On the CPU a step has 2,048 tokens unless --set batch.... says otherwise.\n\n"
      "Example:\n  dither bench configs/gpt2-124m.json --json bench.json\n"
      "  dither bench --operation attention_forward --operation attention_backward");
  command->callback([options] { bench(*options); });
}

}  // namespace dither
