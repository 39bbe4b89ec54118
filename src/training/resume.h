// Where a run begins: at its first step, or behind the newest good checkpoint.
//
// checkpoint.resume "auto" wants to go on with the very run that the folder holds, and refuses where the config or the
// data would compute something else. The path of a checkpoint takes up its state on purpose: what differs is a warning,
// as long as it is the same model. A command that names a checkpoint of its own run goes on from what it has written
// since, so that it can be started again.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "src/checkpoint/manifest.h"
#include "src/config/config.h"
#include "src/parallel/control.h"
#include "src/training/run_folder.h"

namespace dither {

/// A checkpoint to go on from.
struct ResumePoint {
  std::string path;
  Manifest manifest;
  Config config;  // of the run that wrote it
};

struct Beginning {
  std::optional<ResumePoint> resume;  // none: step 0
  bool again = false;                 // in a folder where a run was killed before its first checkpoint
  bool complete = false;              // the run is done, with its weights written: nothing is to be done
  std::vector<std::string> found;     // what there was, for the log
  std::vector<std::string> warnings;  // damaged checkpoints that were passed over, and what differs
};

/// All ranks call it; each verifies its share of the files that it then loads. `data`: as in a manifest.
/// Throws Error, on every rank, where the run must not begin: the folder holds a run that is not to be resumed
/// (checkpoint.resume "never"), or another one; no checkpoint of those that are there is good; a named one is damaged;
/// another model; another strategy without checkpoint.allow_strategy_change; a checkpoint behind the last step, or
/// before optimizer.schedule.start_step.
Beginning find_beginning(const Config& config, const RunFolder& folder, const std::string& data, bool overwrite,
                         Control& control);

/// Throws Error on every rank, naming one that does not see a file which rank 0 has just made in `folder`.
void demand_shared_folder(Control& control, const std::string& folder);

}  // namespace dither
