// The end of a run: its last state and its weights go to the disk, and a disk that is full is given time.
#pragma once

#include <functional>
#include <string>

#include "src/parallel/control.h"

namespace dither {

/// What came of an attempt, on rank 0.
struct SaveAttempt {
  std::string failure;     // "" : it is on the disk
  bool disk_full = false;  // why: there may be room later
};

struct LastSave {
  std::function<SaveAttempt()> state, weights;   // by all ranks; an empty function: nothing to save
  std::function<void(const std::string&)> warn;  // on rank 0
  double retry_seconds = 0;                      // in all
};

/// Why something is not on the disk, on rank 0; "" : it is.
struct Unsaved {
  std::string state, weights;
};

/// Tries both, the state first: a run that is killed before its weights are there is resumed and writes them. What has
/// failed is tried once more; where the disk is full, again and again for retry_seconds, or until a signal comes, of a
/// run that a signal has ended another one (StopSignals::repeated()). All ranks call it.
Unsaved save_last(const LastSave& save, Control& control);

}  // namespace dither
