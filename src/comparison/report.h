// The report of a comparison: runs.csv and curves.csv (tables.h), then whatever scripts/report makes of them:
// summary.csv, summary.md, pictures, and report.html, which needs no other file.
//
// The script runs under /usr/bin/python3, which sees Debian's packages; where there is none, under the first python3 of
// the path. The environment variable DITHER_PYTHON names another one.
#pragma once

#include <string>
#include <vector>

#include "src/comparison/run_record.h"

namespace dither {

struct ReportOptions {
  std::string folder;    // made if need be; files of an earlier report are written anew
  std::string baseline;  // label of the arm that others are compared with; "" : the script's choice
  std::string title;     // "" : the script's choice
  int64_t points = 100;  // rows of a run in curves.csv: more than a plot's width can tell apart says little
};

/// The folders of the runs that are meant: each name is a run's folder, or stands for all those below it, by name. A
/// run named twice counts once. Throws Error for a name that has none.
std::vector<std::string> run_folders(const std::vector<std::string>& names);

/// `report` in the folder that all runs have in common.
std::string default_report_folder(const std::vector<std::string>& folders);

/// Writes the CSV files, runs the script, and returns what to tell the user: summary.md and where report.html is.
/// Throws Error if the folder cannot be written, and if the script cannot be run or fails: then the CSV files are there
/// all the same, and the message names them.
std::string write_report(const std::vector<RunRecord>& records, const ReportOptions& options);

}  // namespace dither
