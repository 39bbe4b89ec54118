// The figures of a comparison as two CSV files, from which scripts/report makes everything else:
//
//   runs.csv     one row a run, in the order given
//   curves.csv   at most `points` rows a run: bins of ceil(steps / points) steps, so that runs of one length have the
//                same bins
//
// docs/comparing.md has every column. A number is the shortest text that reads back to the same double, in curves.csv
// rounded to seven digits; one that is not finite, or not there, is an empty cell. Texts are quoted where RFC 4180
// wants it; lines end with a line feed.
#pragma once

#include <string>
#include <vector>

#include "src/comparison/run_record.h"

namespace dither {

std::string runs_csv(const std::vector<RunRecord>& records);
std::string curves_csv(const std::vector<RunRecord>& records, int64_t points);

}  // namespace dither
