// dither report RUN: tables, pictures and a page that compare runs, whatever trained them.
#include "src/comparison/report.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "src/commands/commands.h"

namespace dither {

void add_report_command(CLI::App& app) {
  struct Options {
    std::vector<std::string> runs;
    ReportOptions report;
  };
  const auto options = std::make_shared<Options>();

  CLI::App* command = app.add_subcommand("report", "Compare runs: tables, plots and one page");
  command->add_option("RUN", options->runs, "Runs' folders; a folder above runs stands for all of them")
      ->type_name("")
      ->required();
  command->add_option("--output", options->report.folder, "Folder of the report; default: report beside the runs")
      ->type_name("FOLDER");
  command->add_option("--baseline", options->report.baseline, "Label of the arm that others are compared with")
      ->type_name("LABEL");
  command->add_option("--points", options->report.points, "Rows of a run in curves.csv; default: 100")
      ->type_name("N")
      ->check(CLI::Range(2, 1000000).description(""));
  command->add_option("--title", options->report.title, "Title of the page")->type_name("TEXT");
  command->footer(
      "Needs Python with matplotlib and scipy (Debian/Ubuntu: python3-matplotlib python3-scipy). What the columns and\n"
      "figures mean: docs/comparing.md.\n\n"
      "Example:\n"
      "  dither report runs/quickstart runs/slower --output runs/rates");
  command->callback([options] {
    const std::vector<std::string> folders = run_folders(options->runs);
    std::vector<RunRecord> records;
    for (const std::string& folder : folders) records.push_back(read_run(folder));
    if (options->report.folder.empty()) options->report.folder = default_report_folder(folders);
    fmt::print("{}", write_report(records, options->report));
  });
}

}  // namespace dither
