// A whole training run: from a Config to the run's folder.
#pragma once

#include <string>
#include <vector>

#include "src/config/config.h"
#include "src/parallel/ranks.h"

namespace dither {

struct TrainOptions {
  bool overwrite = false;             // an earlier run of this name is deleted first; else it is an error
  std::vector<std::string> warnings;  // of the config, shown with the start-up table and kept in log.txt
};

/// Trains `config.steps` steps and leaves runs/<name>/ with config.json, metrics.jsonl, log.txt and
/// weights.safetensors. SIGINT, SIGTERM and SIGUSR1, to any rank, end it after the step at hand, with everything
/// written. Throws Error: bad data, no memory, too many skipped steps in a row; what can be known before the first step
/// is thrown before the folder is made. All ranks call it; rank 0 speaks and writes.
void train(const Config& config, const TrainOptions& options, Ranks& ranks);

}  // namespace dither
