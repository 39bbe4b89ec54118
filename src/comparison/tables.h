// The figures of a comparison as two CSV files, from which scripts/report.py makes everything else:
//
//   runs.csv     one row a run, in the order given
//   curves.csv   at most 100 rows a run: bins of ceil(steps / 100) steps, so that runs of one length have the same bins
//
// docs/comparing.md has every column. A number is the shortest text that reads back to the same double; one that is not
// finite, or not there, is an empty cell. Texts are quoted where RFC 4180 wants it; lines end with a line feed.
#pragma once

#include <string>
#include <vector>

#include "src/comparison/run_record.h"

namespace dither {

std::string runs_csv(const std::vector<RunRecord>& records);
std::string curves_csv(const std::vector<RunRecord>& records);

}  // namespace dither
