// The runs of a study as child processes, several at once within a budget of cores and memory, each run once: what has
// finished is not repeated, what was interrupted is resumed from its newest checkpoint, what fails does not stop the
// rest.
//
// Leaves in the study's folder, beside the runs' own folders (docs/comparing.md):
//   configs/<run>.json   the complete config that the run was started with
//   logs/<run>.txt       what it said
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "src/comparison/run_record.h"
#include "src/config/study.h"

namespace dither {

struct ScheduleOptions {
  int jobs = 0;           // runs at once; 0: as many as their threads leave cores for, on a GPU 1
  int threads = 0;        // of each run; 0: what the configs say, else cores / jobs
  double memory_gib = 0;  // of all runs at once; 0: 80 % of what is free
  bool overwrite = false;
};

enum class Phase { waiting, running, ended };

struct RunStatus {
  const StudyRun* run = nullptr;
  int64_t parameters = 0;    // that count
  int64_t memory_bytes = 0;  // planned: what the run takes from the budget
  Phase phase = Phase::waiting;
  bool begun = false;        // some compare has started it
  bool earlier = false;      // it had finished before: not repeated
  int64_t steps_before = 0;  // done when it was resumed
  std::string conflict;      // it has finished, or has checkpoints, with another config: the first difference
  RunRecord record;          // as far as the metrics have been read
};

struct StudyProgress {
  const Study& study;
  const std::vector<RunStatus>& runs;  // in the order of the study
  int jobs, threads;
  double seconds;  // since the first start
};

/// Called often, also where nothing has changed.
using StudyObserver = std::function<void(const StudyProgress&)>;

/// What there is of each run. Changes nothing.
std::vector<RunStatus> survey(const Study& study);

/// Throws Error if a run has finished, or has checkpoints, with another config than the study gives it.
void refuse_conflicts(const std::vector<RunStatus>& runs);

/// Runs what has not finished and returns how each run stands. SIGINT and SIGTERM (StopSignals must be there) end the
/// runs after their steps at hand. Throws Error, before anything starts: conflicts (unless they are to be overwritten),
/// another compare at work in the folder, a folder that cannot be written. After a signal: it was stopped.
std::vector<RunStatus> run_study(const Study& study, const ScheduleOptions& options, const StudyObserver& observe);

}  // namespace dither
