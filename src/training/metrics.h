// metrics.jsonl: one JSON object an event, appended and flushed, so that a killed run loses nothing it has said.
// docs/metrics.md describes every field. Numbers are written so that reading them back gives the same bits.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>

#include "src/optimizer/optimizer.h"
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

class MetricsLog {
 public:
  /// Throws Error when the file cannot be written, here and in every method.
  explicit MetricsLog(const std::string& path);

  void start(const Config& config, int64_t parameters, const std::string& backend, int ranks);
  void step(const StepRecord& record);
  void evaluation(int64_t step, const EvaluationResult& result);
  void sample(int64_t step, const std::string& text);
  void guard(int64_t step, const GuardVerdict& verdict, double loss, double gradient_norm);
  void end(int64_t step, const std::string& reason, double seconds);

 private:
  void append(const std::string& line);
  std::string path_;
  std::ofstream file_;
};

}  // namespace dither
