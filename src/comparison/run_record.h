// A run's folder as plain values: config.json, and the events of metrics.jsonl (docs/metrics.md) without their times of
// day, samples and norms by group. What a comparison says of a run is computed from this and nothing else.
//
// Numbers that the file has not, or has as null because they were not finite, are NaN here.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "src/config/config.h"

namespace dither {

/// One `step` event.
struct StepPoint {
  int64_t step = 0;    // from 1
  int64_t tokens = 0;  // seen so far, this step included
  double loss = NAN;
  double gradient_norm = NAN;
  double learning_rate = NAN;
  double step_seconds = NAN;
  double tokens_per_second = NAN;
  bool skipped = false;
  bool measured = false;  // the four below are there
  double edq = NAN, edq_full = NAN, imprecision = NAN, update_to_ulp = NAN;
};

/// One `evaluation` event.
struct EvaluationPoint {
  int64_t step = 0;
  double loss = NAN;
  double bits_per_byte = NAN;
  // What was judged (docs/metrics.md): 0 and "" where an earlier version wrote the event, or where there is none.
  int64_t targets = 0, set_targets = 0, bytes = 0;
  std::string judged, shards, tokenizer, text;
};

/// One `guard` event: a step that was skipped.
struct SkipPoint {
  int64_t step = 0;
  std::string reason;
  int64_t in_a_row = 0;  // up to this one
};

enum class RunState {
  completed,   // all steps done
  diverged,    // ended by skipped steps, or its final loss is not finite or above that of the run's first step
  failed,      // no `end` event, and no process writes its metrics any more
  incomplete,  // ended by a signal, or still running
};

struct RunRecord {
  std::string folder;  // as it was named
  Config config;
  std::string commit;  // of the program, "a then b" where b went on with it; "" where metrics do not say
  int64_t parameters = 0;
  double bytes_per_parameter = NAN;
  std::string shards, tokenizer;  // hashes of the training data and of its tokenizer; "" : not recorded, or none
  std::vector<StepPoint> steps;
  std::vector<EvaluationPoint> evaluations;
  std::vector<SkipPoint> skips;
  std::string end_reason;  // of the `end` event; "" : there is none
  std::string error;       // what a run without an end said last: "error: ..."; "" : nothing
  bool running = false;    // a process has its metrics open

  int64_t steps_done() const { return steps.empty() ? 0 : steps.back().step; }
};

/// Reads the events of one metrics.jsonl as they are appended: each call takes the whole lines that are new. A line cut
/// by the end of a process is no event, nor is anything else that is no JSON object. `resume` drops earlier events of
/// later steps.
class MetricsReader {
 public:
  explicit MetricsReader(std::string path) : path_(std::move(path)) {}

  /// Adds what is new to the record; false if nothing was, or if there is no such file (yet).
  bool read(RunRecord& record);

 private:
  std::string path_;
  int64_t offset_ = 0;  // bytes taken
};

/// Whether `folder` is a run's: it holds a config.json.
bool is_run_folder(const std::string& folder);

/// Throws Error where config.json is missing or is no config. Metrics may be missing: a run that failed at its start.
RunRecord read_run(const std::string& folder);
/// The parts of it: config.json, and everything else, into a record that knows its folder.
Config read_run_config(const std::string& folder);
void read_metrics(RunRecord& record);

/// Where `dither compare` keeps what a run said, beside the run's folder: <folder>/../logs/<run>.txt.
std::string log_path_of(const std::string& folder);
/// The last line of a log that begins with "error: " or "internal error: "; "" if none does.
std::string last_error(const std::string& log_path);

RunState state_of(const RunRecord& record);
/// "completed", "diverged", "failed", "incomplete".
const char* name_of(RunState state);
/// Why the state is what it is, in a few words; "" for a completed run.
std::string reason_of(const RunRecord& record);

/// Whether training has come to its own end (`completed` or `skipped`), so that running it again repeats it.
bool is_finished(const RunRecord& record);
/// Mean loss of the applied steps among the last 5 % of the steps done; of the last applied step if none is among them.
/// NaN if one of them is not finite or no step was applied. A skipped step changed nothing: what its batch had for a
/// loss tells nothing of the weights.
double train_loss(const RunRecord& record);

}  // namespace dither
