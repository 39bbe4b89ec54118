// dither compare FILE: the runs of a study, several at once, and the report on them.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>

#include "base/counted.h"
#include "base/error.h"
#include "src/commands/commands.h"
#include "src/commands/common.h"
#include "src/comparison/live_table.h"
#include "src/comparison/report.h"
#include "src/training/console.h"
#include "src/training/progress.h"  // with_commas()
#include "src/training/signals.h"

namespace dither {

namespace {

constexpr int kMost = 1024;   // jobs or threads: a bound only against misprints
constexpr size_t kNamed = 3;  // runs that did not complete, in the last message; the table and the report have all

struct Options {
  std::vector<std::string> files;
  std::vector<std::string> assignments;
  ScheduleOptions schedule;
  std::string baseline;
  bool list = false;
  bool no_report = false;
};

std::vector<Study> load_studies(const Options& options) {
  std::vector<Study> studies;
  for (const std::string& file : options.files) {
    std::vector<std::string> warnings;
    studies.push_back(load_study(file, options.assignments, warnings));
    print_warnings(warnings);
  }
  return studies;
}

void list(const Study& study) {
  const std::vector<RunStatus> runs = survey(study);
  size_t width = 3;
  for (const RunStatus& status : runs) width = std::max(width, status.run->name.size());
  fmt::print("{}: {} in {}\n", study.name, counted(static_cast<int64_t>(runs.size()), "run"), study.folder);
  fmt::print("{:<{}}  {:<14}  {:>15}  {:>12}\n", "run", width, "state", "parameters", "memory, MiB");
  for (const RunStatus& status : runs) {
    const std::string state = !status.conflict.empty() ? "other config"
                              : status.begun           ? name_of(state_of(status.record))
                                                       : "not begun";
    fmt::print("{:<{}}  {:<14}  {:>15}  {:>12}\n", status.run->name, width, state, with_commas(status.parameters),
               with_commas((status.memory_bytes + (1 << 20) - 1) >> 20));
  }
}

/// "" if every run completed; else how many did not, and of the first ones why.
std::string problems_of(const Study& study, const std::vector<RunStatus>& runs) {
  std::string named;
  size_t bad = 0;
  for (const RunStatus& status : runs) {
    const RunState state = state_of(status.record);
    if (state == RunState::completed || ++bad > kNamed) continue;
    named += fmt::format("\n       {}: {}: {}", status.run->name, name_of(state), reason_of(status.record));
  }
  if (bad == 0) return "";
  return fmt::format("{}: {} of {} did not complete{}{}", study.folder, bad,
                     counted(static_cast<int64_t>(runs.size()), "run"), named,
                     bad > kNamed ? fmt::format("\n       and {} more", bad - kNamed) : "");
}

/// Runs and reports one study; returns what is to be complained of once all studies are done.
std::string compare(const Study& study, const Options& options) {
  LiveTable table(stdout);
  const std::vector<RunStatus> runs =
      run_study(study, options.schedule, [&table](const StudyProgress& progress) { table.show(progress); });
  std::string problems = problems_of(study, runs);
  if (options.no_report) return problems;
  std::vector<RunRecord> records;
  for (const RunStatus& status : runs) records.push_back(status.record);
  try {
    const std::string report =
        write_report(records, {.folder = study.folder + "/report", .baseline = options.baseline, .title = study.name});
    write_console(stdout, "\n" + report);
  } catch (const Error& e) {  // the runs are done, and other studies wait
    problems += (problems.empty() ? "" : "\n       ") + std::string(e.what());
  }
  return problems;
}

void compare_all(const Options& options) {
  const std::vector<Study> studies = load_studies(options);  // all: a mistake in the last file is heard at once
  if (options.list) {
    for (const Study& study : studies) list(study);
    return;
  }
  survive_lost_readers();
  const StopSignals signals;
  if (!options.schedule.overwrite) {
    for (const Study& study : studies) refuse_conflicts(survey(study));
  }
  std::string problems;
  for (const Study& study : studies) {
    const std::string more = compare(study, options);
    problems += (problems.empty() || more.empty() ? "" : "\n       ") + more;
  }
  if (!problems.empty()) throw Error(problems);
}

}  // namespace

void add_compare_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("compare", "Train every run that a file's `vary` asks for, and compare them");
  command->add_option("FILE", options->files, "Compare files: configs with `vary`")->type_name("")->required();
  add_set_option(*command, options->assignments);
  // Without their own descriptions: the help names the unit instead.
  const CLI::Validator count = CLI::Range(1, kMost).description("");
  constexpr double kMostGiB = 1e6;
  command->add_option("--jobs", options->schedule.jobs, "Runs at once; default: cores / threads, on a GPU 1")
      ->type_name("N")
      ->check(count);
  command->add_option("--threads", options->schedule.threads, "Threads of each run; default: cores / jobs")
      ->type_name("N")
      ->check(count);
  add_number(*command, "--memory", options->schedule.memory_gib, "For all runs at once; default: 80 % of what is free",
             "GiB", kMostGiB);
  command->add_flag("--overwrite", options->schedule.overwrite, "Repeat every run, finished ones too");
  command->add_flag("--list", options->list, "Print the runs, their state, size and memory, and do nothing");
  command->add_flag("--no-report", options->no_report, "Train only; `dither report` makes the report later");
  command->add_option("--baseline", options->baseline, "Label of the arm that the report compares others with")
      ->type_name("LABEL");
  command->footer(
      "Started again it goes on: finished runs are not repeated, interrupted ones resumed. Leaves runs/<name>/<run>/ "
      "and\n"
      "runs/<name>/report/report.html. How to write a compare file and read its report: docs/comparing.md.\n\n"
      "Example:\n"
      "  dither compare configs/compare/quick.json");
  command->callback([options] { compare_all(*options); });
}

}  // namespace dither
