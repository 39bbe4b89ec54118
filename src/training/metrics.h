// metrics.jsonl: one JSON object an event, appended at once, so that a killed run loses nothing it has said.
// docs/metrics.md describes every field. Numbers are written so that reading them back gives the same bits.
//
// A disk that refuses to write does not end a run: what it has not taken waits in memory, from the very byte where it
// stopped, and goes first at the next event.
#pragma once

#include <cstdint>
#include <string>

#include "src/checkpoint/manifest.h"  // DataIdentity
#include "src/optimizer/optimizer.h"
#include "src/training/append_file.h"
#include "src/training/evaluation.h"
#include "src/training/guards.h"

namespace dither {

/// What a finished step has to say; times apart, all of it repeats to the bit.
struct StepRecord {
  int64_t step = 0;
  int64_t tokens = 0;  // seen so far, this step included
  double loss = 0;
  double gradient_norm = 0;  // before clipping
  double clip_factor = 1;
  double learning_rate = 0;
  double step_seconds = 0;
  double tokens_per_second = 0;
  bool skipped = false;
  bool measured = false;
  StepMeasures measures;  // if measured
};

/// What has come of one attempt to write a checkpoint.
struct CheckpointEvent {
  int64_t step = 0;
  std::string path;          // "" : there is none
  std::string error;         // what went wrong; "" : nothing
  int64_t bytes = 0;         // of all its files
  double seconds = 0;        // from its step until it had its name
  double stall_seconds = 0;  // training waited for it, in all
  double copy_seconds = 0;   // to host memory
  double write_seconds = 0;  // to the disk, synced
};

/// Whether the last line of a metrics.jsonl says that the run has ended after this step, and not by a signal (which may
/// have left out the evaluation at the end): only then are the weights beside it those of this step. False where there
/// is none.
bool has_ended(const std::string& metrics_path, int64_t step);

/// Whether the file's first line is that of a run's metrics.jsonl.
bool begins_as_metrics(const std::string& path);

class MetricsLog {
 public:
  /// Appends to the file, behind whole lines: one that a kill has cut is ended first. Throws Error when the file cannot
  /// be opened.
  explicit MetricsLog(const std::string& path) : file_(path) {}

  /// `data`: what is trained on; training losses of two runs compare where it is the same.
  void start(const Config& config, int64_t parameters, const std::string& backend, int ranks, const DataIdentity& data);
  void step(const StepRecord& record);
  void evaluation(int64_t step, const EvaluationResult& result, const JudgedData& data);
  void sample(int64_t step, const std::string& text);
  void guard(int64_t step, const GuardVerdict& verdict, double loss, double gradient_norm);
  void checkpoint(const CheckpointEvent& event);
  /// Training goes on behind `step`; `from`: the checkpoint's path, "" where the run begins again at step 0.
  void resume(int64_t step, const std::string& from, int ranks, int zero_stage);
  /// Throws Error when the disk still refuses what it was given.
  void end(int64_t step, const std::string& reason, double seconds);

  /// That the disk has begun to refuse, or has caught up, since the last call; "" : neither.
  std::string take_warning();
  /// Returns when what was written is on the disk; says what went wrong, "" : nothing. From any thread.
  std::string sync() const { return file_.sync(); }
  /// The file behind it.
  AppendFile& file() { return file_; }

 private:
  void append(const std::string& line);
  void warn(const std::string& text);

  AppendFile file_;
  int64_t waiting_ = 0;  // events that have begun to wait since the disk refuses
  std::string refusal_;  // why it does; "" : it does not
  std::string warning_;
};

}  // namespace dither
