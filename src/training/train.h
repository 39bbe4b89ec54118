// A whole training run: from a Config to the run's folder.
#pragma once

#include <string>
#include <vector>

#include "src/config/config.h"
#include "src/parallel/ranks.h"

namespace dither {

class FileSystem;

struct TrainOptions {
  bool overwrite = false;             // an earlier run of this name is deleted first
  FileSystem* files = nullptr;        // where checkpoints are written; null: the disk
  std::vector<std::string> warnings;  // of the config, shown with the start-up table and kept in log.txt
};

/// Trains until `config.steps` steps are done and leaves runs/<name>/ with config.json, metrics.jsonl, log.txt,
/// checkpoints/ and weights.safetensors. Begins where checkpoint.resume says (resume.h); a run that is complete is left
/// as it is. SIGINT, SIGTERM, SIGHUP and SIGUSR1, to any rank, end it after the step in progress, with everything saved
/// (checkpoint.on_signal). Throws Error: bad data, no memory, too many skipped steps in a row; what can be known before
/// the first step is thrown before the folder is made. A checkpoint that cannot be written is no error while training
/// goes on: it is reported; only where the last state is not saved in the end an Error says so, after all else is done.
/// All ranks call it; rank 0 speaks and writes.
void train(const Config& config, const TrainOptions& options, Ranks& ranks);

}  // namespace dither
