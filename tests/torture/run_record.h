// What a run's folder says from outside: its metrics as a reader after a resume sees them, its checkpoints, its
// weights.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace dither::torture {

/// metrics.jsonl so far. A line that a kill has cut is passed over.
struct Metrics {
  std::map<int64_t, std::pair<double, double>> steps;  // loss and gradient norm; later steps go with each resume event
  std::vector<int64_t> resumed;                        // the step of each resume event
  std::vector<double> write_seconds;                   // of each finished checkpoint, from its step to its name
  int64_t newest_reported = 0;                         // step of the newest checkpoint that was said to be finished
};
Metrics read_metrics(const std::string& path);

/// The step of the newest listed checkpoint, 0 where there is none. Throws Error if one that is listed is not whole.
int64_t newest_verified(const std::string& checkpoints);

/// Whether somebody is writing or removing a checkpoint, or was when all was stopped: a .partial or .removed folder
/// without a mark.
bool is_inside_write(const std::string& checkpoints);
/// The same names, of partial folders without a mark.
std::vector<std::string> partial_folders(const std::string& checkpoints);
/// Whether there is any of both, marked or not.
bool has_leftovers(const std::string& checkpoints);
/// Puts a mark into what a killed run has left, so that it is not counted again.
void mark_leftovers(const std::string& checkpoints);

/// Throws Error naming the first tensor that differs in name, type, shape or a bit.
void demand_same_weights(const std::string& path, const std::string& reference);

}  // namespace dither::torture
