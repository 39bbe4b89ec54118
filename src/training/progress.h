// What a run says on the terminal and in log.txt: the table at the start, a line a step, and plain sentences.
#pragma once

#include <optional>
#include <string>

#include "base/counted.h"  // with_commas()
#include "src/model/memory_plan.h"
#include "src/parallel/communicator.h"  // Traffic
#include "src/training/append_file.h"
#include "src/training/metrics.h"

namespace dither {

struct StartUpFacts {
  int64_t parameters;  // that count
  int ranks;
  std::string communication;  // the transport's description
  MemoryPlan memory;          // of rank 0
  std::string free;          // of how much free memory, as it goes behind the plan: "    of 14,000 free (MemAvailable)"
  std::string thread_limit;  // what keeps rank 0 from using all cores; "" : nothing
  std::string backend;
  double matrix_peak;  // FLOP/s measured
  double flop_per_token;
  std::string data;        // shards, tokens, epochs
  std::string validation;  // what is judged; "" : nothing
};

class Progress {
 public:
  /// `log_path` "" : no file. What the terminal does not take is lost there; what log.txt does not take waits.
  Progress(const Config& config, const std::string& log_path);
  ~Progress();

  void start_up(const StartUpFacts& facts);
  /// One line a step: kept every logging.every_steps, and on a terminal rewritten in place in between.
  void step(const StepRecord& record);
  void evaluation(int64_t step, const EvaluationResult& result);
  void say(const std::string& text);
  void warn(const std::string& text);
  /// log.txt; nullptr: there is none.
  AppendFile* file() { return log_ ? &*log_ : nullptr; }

 private:
  void show(const std::string& text);
  void log(const std::string& text);
  std::string step_line(const StepRecord& record);
  void clear_live_line();

  const Config& config_;
  std::optional<AppendFile> log_;
  bool terminal_;
  bool console_lost_ = false;  // it has refused, which log.txt says once
  bool log_refused_ = false;   // log.txt has refused the last line, which the terminal was told
  bool live_ = false;          // a line without an end stands on the terminal
  double peak_ = 0, flop_per_token_ = 0;
  double seconds_per_step_ = 0;  // moving average, for the ETA
  double edq_ = -1;              // the last measured; below 0: none yet
};

/// What rank 0 has given to collectives in `seconds` of training. queued: on a device the time of the calls says
/// nothing.
std::string communication_text(const Traffic& traffic, double seconds, bool queued);

/// Seconds as "45s", "3m20s", "5h00m" or "2d03h".
std::string duration_text(double seconds);

}  // namespace dither
