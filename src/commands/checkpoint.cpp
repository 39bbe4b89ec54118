// dither checkpoint list|verify|show|consolidate: what lies in a run's checkpoints, whether it is whole, and one file
// of it.
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>  // fmt::join

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include "base/error.h"
#include "base/printable.h"
#include "src/checkpoint/checkpoint_folder.h"
#include "src/checkpoint/consolidate.h"
#include "src/checkpoint/load.h"
#include "src/checkpoint/state_tensors.h"
#include "src/checkpoint/weights.h"
#include "src/commands/commands.h"
#include "src/training/engine.h"
#include "src/training/progress.h"  // with_commas(), duration_text()

namespace dither {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* kCheckpointsFolder = "/checkpoints";  // of a run

struct Options {
  std::string run;
  std::vector<std::string> paths;
  std::string checkpoint, output;
  bool config = false, tensors = false, weights = false;
};

double mib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/// As users type it, without slashes at its end.
std::string plain(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

std::string name_of(const std::string& path) { return fs::path(path).filename().string(); }

/// A finished checkpoint by its manifest, or what has the name of one.
bool is_checkpoint(const std::string& path) {
  if (there_is(path + "/" + kManifestName)) return true;
  std::error_code unknown;  // then reading says why
  return name_of(path).rfind("step-", 0) == 0 && !fs::is_directory(path + kCheckpointsFolder, unknown);
}

/// Where a run has its checkpoints. Throws Error where there is no such folder.
std::string checkpoints_of(const std::string& run) {
  std::error_code unknown;
  const std::string inside = run + kCheckpointsFolder;
  if (fs::is_directory(inside, unknown)) return inside;
  if (fs::is_directory(run, unknown)) return run;
  throw Error(run + " does not exist: needs a run's folder, its checkpoints folder, or a checkpoint");
}

/// The checkpoints that a path means, by rising step: itself, or all of a run. Throws Error where there is none.
std::vector<std::string> checkpoints_at(const std::string& path) {
  if (is_checkpoint(path)) return {path};
  const std::string folder = checkpoints_of(path);
  std::vector<std::string> checkpoints;
  for (const CheckpointEntry& entry : list_checkpoints(folder)) checkpoints.push_back(entry.path);
  if (checkpoints.empty()) {
    throw Error(folder + " has no finished checkpoint; dither checkpoint list shows what it has");
  }
  return checkpoints;
}

/// Of those the newest.
std::string checkpoint_at(const std::string& path) { return checkpoints_at(path).back(); }

int64_t bytes_of(const Manifest& manifest) {
  int64_t bytes = 0;
  for (const ShardRecord& shard : manifest.shards) bytes += shard.bytes;
  return bytes;
}

[[noreturn]] void fail_damaged(size_t damaged, size_t all) {
  throw Error(fmt::format("{} of {} checkpoints {} damaged: named above, with the reason", damaged, all,
                          damaged == 1 ? "is" : "are"));
}

// list

/// "2026-11-22 12:34:56  3m20s": when the manifest was written, the last of a checkpoint's files, and its age.
std::string written_text(const std::string& checkpoint) {
  std::error_code failed;
  const fs::file_time_type written = fs::last_write_time(checkpoint + "/" + kManifestName, failed);
  if (failed) return fmt::format("{:19}  {:>6}", "unknown", "");
  const auto time = std::chrono::file_clock::to_sys(written);
  const double age = std::chrono::duration<double>(std::chrono::system_clock::now() - time).count();
  const std::time_t second =
      std::chrono::system_clock::to_time_t(std::chrono::time_point_cast<std::chrono::system_clock::duration>(time));
  return fmt::format("{:%Y-%m-%d %H:%M:%S}  {:>6}", fmt::localtime(second), duration_text(std::max(age, 0.0)));
}

/// What runs that died have left, and what one that lives is at.
std::vector<std::string> leftovers(const std::string& folder) {
  std::vector<std::string> lines;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string(), end = entry.path().extension().string();
    if (end == kPartialEnd) lines.push_back(name + "  not finished: being written, or left by a run that died");
    if (end == kRemovedEnd) lines.push_back(name + "  being removed, or left by a run that died");
  }
  std::sort(lines.begin(), lines.end());
  return lines;
}

void list(const Options& options) {
  const std::string folder = checkpoints_of(plain(options.run));
  const std::vector<CheckpointEntry> entries = list_checkpoints(folder);
  size_t damaged = 0;
  fmt::print("{}\n", visible(folder));
  if (!entries.empty()) {
    fmt::print("{:>10}  {:19}  {:>6}  {:>9}  {:>5}  strategy\n", "step", "written", "age", "MiB", "ranks");
  }
  for (const CheckpointEntry& entry : entries) {
    try {
      const Manifest manifest = read_manifest(entry.path);
      const Config config = config_of(entry.path, manifest);
      const int64_t every = config.checkpoint.keep_every;
      fmt::print("{:>10}  {}  {:9.1f}  {:5}  {}{}\n", entry.step, written_text(entry.path), mib(bytes_of(manifest)),
                 manifest.ranks, strategy_info(config.precision.strategy).name,
                 every > 0 && entry.step % every == 0 ? ", kept for ever" : "");
    } catch (const Error& error) {
      if (!there_is(entry.path)) continue;  // removed meanwhile by its run
      ++damaged;
      fmt::print("{:>10}  damaged: {}\n", entry.step, visible(error.what()));
    }
  }
  const std::vector<std::string> left = leftovers(folder);
  for (const std::string& line : left) fmt::print("{}\n", visible(line));
  if (entries.empty() && left.empty()) fmt::print("no checkpoints\n");
  if (damaged > 0) fail_damaged(damaged, entries.size());
}

// verify

void verify(const Options& options) {
  std::vector<std::string> checkpoints;
  std::set<std::string> there;  // of these, at first
  for (const std::string& path : options.paths) {
    for (const std::string& checkpoint : checkpoints_at(plain(path))) {
      checkpoints.push_back(checkpoint);
      if (there_is(checkpoint)) there.insert(checkpoint);
    }
  }
  size_t damaged = 0, removed = 0;
  for (const std::string& checkpoint : checkpoints) {
    const Clock::time_point begin = Clock::now();
    try {
      const Manifest manifest = read_manifest(checkpoint);
      verify_checkpoint(checkpoint, manifest, ReadFrom::disk);
      fmt::print("{}: good, {:.1f} MiB in {:.2f} s\n", visible(checkpoint), mib(bytes_of(manifest)),
                 seconds_since(begin));
    } catch (const Error& error) {
      const bool gone = there.count(checkpoint) > 0 && !there_is(checkpoint);
      ++(gone ? removed : damaged);
      gone ? fmt::print("{}: removed meanwhile by a run that keeps its newest\n", visible(checkpoint))
           : fmt::print("{}\n", visible(error.what()));  // begins with the file
    }
    std::fflush(stdout);  // a line as soon as it is known: reading takes a while
  }
  if (damaged > 0) fail_damaged(damaged, checkpoints.size());
  if (removed == checkpoints.size()) throw Error("all checkpoints were removed while they were read: try again");
}

// show

std::string state_text(const std::vector<StateTensor>& tensors) {
  std::string text;
  int64_t all = 0;
  for (const char* kind : kStateNames) {
    int64_t bytes = 0;
    for (const StateTensor& tensor : tensors) bytes += tensor.range.state == kind ? tensor.bytes() : 0;
    if (bytes > 0) text += fmt::format("{}{} {}", text.empty() ? "" : " + ", kind, with_commas(bytes));
    all += bytes;
  }
  return text + " = " + with_commas(all);
}

void print_tensors(const Manifest& manifest, const std::vector<StateTensor>& tensors) {
  std::map<std::string, std::vector<std::string>> places;
  for (const ShardRecord& shard : manifest.shards) {
    for (const StateRange& range : shard.ranges) {
      places[range.tensor()].push_back(fmt::format("{} [{},{})", shard.file, range.begin, range.end));
    }
  }
  for (const StateTensor& tensor : tensors) {
    const std::string name = tensor.range.tensor();
    fmt::print("{}  {}  [{}]  {}\n", name, name_of(tensor.type), fmt::join(tensor.shape, ","),
               fmt::join(places.at(name), ", "));
  }
}

void show(const Options& options) {
  const std::string checkpoint = checkpoint_at(plain(options.checkpoint));
  const Manifest m = read_manifest(checkpoint);
  const Config config = config_of(checkpoint, m);
  if (options.config) return fmt::print("{}", to_json(config));
  const std::vector<StateTensor> tensors = state_tensors(checkpoint, m, config);
  if (options.tensors) return print_tensors(m, tensors);

  const StrategyInfo& strategy = strategy_info(config.precision.strategy);
  const TrainingState& t = m.training;
  fmt::print("checkpoint  {}\n", visible(checkpoint));
  fmt::print("run         {}, step {} of {}\n", config.name, with_commas(t.step), with_commas(config.steps));
  fmt::print("seen        {}, {}\n", counted(t.samples, "sample"), counted(tokens_consumed(t, config), "token"));
  fmt::print("model       {}{}, {} wide, {}\n", config.model.preset.empty() ? "" : config.model.preset + ": ",
             counted(config.model.layers, "layer"), config.model.hidden,
             counted(ParameterTable(config).counted_elements(), "parameter"));
  fmt::print("strategy    {}: {}\n", strategy.name, strategy.meaning);
  fmt::print("ranks       {}, ZeRO {}\n", m.ranks, config.parallel.zero_stage);
  fmt::print("commit      {}\n", visible(m.commit));
  fmt::print("arithmetic  {}\n", visible(m.arithmetic));
  fmt::print("algorithms  {}\n", m.algorithms.empty() ? "no table" : "a table is kept in the manifest");
  const DataIdentity data = parse_data_identity(m.data);
  fmt::print("data        {}{}\n", data.shards, data.tokenizer.empty() ? "" : ", tokenizer " + data.tokenizer);
  fmt::print("guards      {} skipped, {} in a row; windows of {} losses and {} norms\n",
             counted(t.skipped_steps, "step"), with_commas(t.skipped_in_a_row), t.losses.size(), t.norms.size());
  fmt::print("state       {} bytes\n", state_text(tensors));
  for (const ShardRecord& shard : m.shards) {
    fmt::print("shard       {}: {} bytes, parts of {}\n", shard.file, with_commas(shard.bytes),
               counted(static_cast<int64_t>(shard.ranges.size()), "tensor"));
  }
}

// consolidate

/// Before memory is taken for a model that a damaged or foreign manifest names.
void demand_state_of(const std::string& checkpoint, const Manifest& manifest, const Config& config) {
  constexpr int64_t kLeastBytes = 2;  // of a parameter: its weight as BF16
  const int64_t parameters = ParameterTable(config).counted_elements();
  int64_t bytes = 0;
  for (const ShardRecord& shard : manifest.shards) bytes += shard.bytes;
  if (bytes / kLeastBytes >= parameters) return;
  throw Error(fmt::format("{}: its shards have {} bytes, the {} parameters of its config need more", checkpoint, bytes,
                          parameters));
}

/// The weights that forward passes use, as `dither train` leaves them: by an engine on the CPU, whatever the run had.
void write_weights_of(const std::string& checkpoint, const std::string& output) {
  refuse_existing(output);
  const Manifest manifest = read_manifest(checkpoint);
  const Config saved = config_of(checkpoint, manifest);
  demand_state_of(checkpoint, manifest, saved);
  verify_checkpoint(checkpoint, manifest, ReadFrom::cache);
  Config config = saved;  // what has no part in the weights' bits is made small
  config.device = "cpu";
  config.algorithms = "";
  config.batch.micro_batch_size = 1;
  config.batch.tokens_per_step = config.model.sequence_length;
  Engine engine(config);
  load_state(checkpoint, manifest, saved, config, engine.table(), engine.optimizer(), engine.backend(),
             engine.stream());
  engine.publish_weights();
  write_weights(output, saved, manifest.training.step, engine.table(), engine.parameters(), engine.backend(),
                engine.stream(), parse_data_identity(manifest.data).tokenizer);
  fmt::print("{}: weights after step {} of {}\n", output, with_commas(manifest.training.step), checkpoint);
}

void consolidate_command(const Options& options) {
  const std::string checkpoint = checkpoint_at(plain(options.checkpoint)), output = plain(options.output);
  if (options.weights) return write_weights_of(checkpoint, output);
  const Clock::time_point begin = Clock::now();
  const Manifest manifest = consolidate(checkpoint, output, disk());
  verify_checkpoint(output, manifest, ReadFrom::disk);  // before anybody removes the other one
  fmt::print("{}: step {} of {} in one file, {:.1f} MiB, written and verified in {:.2f} s\n", output,
             with_commas(manifest.training.step), checkpoint, mib(bytes_of(manifest)), seconds_since(begin));
}

CLI::Option* add_path(CLI::App& command, const char* name, std::string& path, const char* meaning) {
  return command.add_option(name, path, meaning)->type_name("")->required();
}

constexpr const char* kCheckpointMeaning = "A checkpoint's folder, or a run's: then its newest";

}  // namespace

void add_checkpoint_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("checkpoint", "List, verify, show or consolidate checkpoints");
  command->require_subcommand(0, 1);  // the parser's own message would not name them
  command->footer(
      "docs/checkpoint-format.md says what a checkpoint consists of.\n\n"
      "Examples:\n"
      "  dither checkpoint list runs/quickstart\n"
      "  dither checkpoint verify runs/quickstart\n"
      "  dither checkpoint show runs/quickstart/checkpoints/step-00001000 --tensors\n"
      "  dither checkpoint consolidate runs/quickstart weights.safetensors --weights");

  CLI::App* list_command = command->add_subcommand("list", "The checkpoints of a run, and what is left of others");
  add_path(*list_command, "RUN", options->run, "A run's folder, or its checkpoints folder");
  list_command->footer("Example:\n  dither checkpoint list runs/quickstart");
  list_command->callback([options] { list(*options); });

  CLI::App* verify_command = command->add_subcommand("verify", "Read checkpoints whole and say which are good");
  verify_command->add_option("PATH", options->paths, "Checkpoints, or runs: then all of theirs")
      ->type_name("")
      ->required();
  verify_command->footer(
      "Files are read from the disk where the system allows it, and held against size, XXH3 and config.\n"
      "Exit status 2 where one is damaged; the others are looked at all the same.\n\n"
      "Example:\n  dither checkpoint verify runs/quickstart runs/other/checkpoints/step-00001000");
  verify_command->callback([options] { verify(*options); });

  CLI::App* show_command = command->add_subcommand("show", "What a checkpoint holds and where it comes from");
  add_path(*show_command, "CHECKPOINT", options->checkpoint, kCheckpointMeaning);
  CLI::Option* config = show_command->add_flag("--config", options->config, "The run's config alone, as JSON");
  show_command->add_flag("--tensors", options->tensors, "Each tensor with type, shape, and its elements by file")
      ->excludes(config);
  show_command->footer("Example:\n  dither checkpoint show runs/quickstart --config > config.json");
  show_command->callback([options] { show(*options); });

  CLI::App* consolidate = command->add_subcommand("consolidate", "Write a checkpoint as a single file");
  add_path(*consolidate, "CHECKPOINT", options->checkpoint, kCheckpointMeaning);
  add_path(*consolidate, "OUTPUT", options->output, "What is written; must not exist");
  consolidate->add_flag("--weights", options->weights,
                        "Only the weights, under Hugging Face names, for dither evaluate and sample");
  consolidate->footer(
      "OUTPUT is a checkpoint whose state.safetensors holds all tensors whole; runs resume from it as from\n"
      "the first. It takes a few MiB of memory. With --weights OUTPUT is one file like the weights.safetensors\n"
      "of a finished run; that is done by the CPU and takes the memory of the whole state.\n\n"
      "Examples:\n"
      "  dither checkpoint consolidate runs/a/checkpoints/step-00001000 one-file\n"
      "  dither checkpoint consolidate runs/a weights.safetensors --weights");
  consolidate->callback([options] { consolidate_command(*options); });

  for (CLI::App* each : {list_command, verify_command, show_command, consolidate}) each->group("Commands");
  command->callback([command] {
    if (!command->get_subcommands().empty()) return;
    throw Error(
        "dither checkpoint: what of it? allowed: list, verify, show, consolidate; dither checkpoint --help "
        "shows what they do");
  });
}

}  // namespace dither
