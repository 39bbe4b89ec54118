// Going on with a run under another schedule: whether the learning rate jumps there, and what extends a run that is
// complete without a jump.
#pragma once

#include <string>
#include <vector>

#include "src/checkpoint/checkpoint_folder.h"  // CheckpointEntry
#include "src/config/config.h"

namespace dither {

/// A warning where the learning rate of step + 1 under `config` is not the one that the run of `there` had or would
/// have had: more than kLargestJump times as large, or that much smaller without optimizer.schedule.start_step = step.
/// Names both rates and what helps; "": none.
std::string learning_rate_jump(const Config& there, const Config& config, int64_t step);

/// What a user of a complete run can do to train on: the settings, from one of its checkpoints (by rising step; the
/// last is of the last step).
std::string how_to_extend(const Config& config, const std::vector<CheckpointEntry>& checkpoints);

}  // namespace dither
