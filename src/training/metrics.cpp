// Lines are made here and written by write(2) alone: a stream would not say how many bytes a full disk has taken.

#include "src/training/metrics.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>  // exchange

#include "base/commit.h"
#include "base/error.h"
#include "src/config/computation.h"     // value_text()
#include "src/config/keys.h"            // find_key()
#include "src/model/parameter_table.h"  // bytes_per_parameter()

namespace dither {

namespace {

using Json = nlohmann::ordered_json;

// JSON has no NaN: a number that is not finite is written as null.
Json number(double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); }

void add_measures(Json& event, const UpdateMeasures& m) {
  event["edq"] = number(m.edq);
  event["edq_full"] = number(m.edq_full);
  event["imprecision"] = number(m.imprecision);
  event["update_to_ulp"] = number(m.update_to_ulp);
  event["update_norm"] = number(m.update_norm);
  event["weight_norm"] = number(m.weight_norm);
}

std::string text_of(const Json& event) {
  return event.dump(-1, ' ', false, Json::error_handler_t::replace);  // a sample may hold half a UTF-8 character
}

int open_to_append(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor < 0) throw Error(path + " cannot be opened for writing: " + std::strerror(errno));
  return descriptor;
}

}  // namespace

bool has_ended(const std::string& metrics_path, int64_t step) {
  constexpr std::streamoff kLongestEnd = 4096;
  std::ifstream file(metrics_path, std::ios::binary | std::ios::ate);
  const std::streamoff size = file.tellg();
  file.seekg(std::max<std::streamoff>(0, size - kLongestEnd));
  std::string line, last;
  while (std::getline(file, line)) last = line;
  std::string begin = text_of({{"event", "end"}, {"step", step}});  // as end() writes it, but for what follows
  begin.back() = ',';
  return last.rfind(begin, 0) == 0;
}

MetricsLog::MetricsLog(const std::string& path) : path_(path), descriptor_(open_to_append(path)) {
  char last = '\n';
  const off_t size = lseek(descriptor_, 0, SEEK_END);
  if (size > 0 && (pread(descriptor_, &last, 1, size - 1) != 1 || last != '\n')) unwritten_ = "\n";
}

MetricsLog::~MetricsLog() { close(descriptor_); }

void MetricsLog::append(const std::string& line) {
  unwritten_ += line + '\n';
  const bool refused_before = !refusal_.empty();
  if (flush()) {
    if (refused_before) warn(fmt::format("{} is written again; events that had waited: {}", path_, waiting_));
    waiting_ = 0;
    return;
  }
  ++waiting_;
  if (!refused_before) {
    warn(fmt::format("{} cannot be written: {}; training goes on, and events wait in memory until the disk takes them",
                     path_, refusal_));
  }
}

/// Whether all is written. A write may end short, in the middle of a line: the next one goes on at the byte behind.
bool MetricsLog::flush() {
  size_t written = 0;
  refusal_.clear();
  while (written < unwritten_.size() && refusal_.empty()) {
    const ssize_t bytes = write(descriptor_, unwritten_.data() + written, unwritten_.size() - written);
    if (bytes > 0) {
      written += static_cast<size_t>(bytes);
    } else if (bytes == 0 || errno != EINTR) {
      refusal_ = bytes == 0 ? "the system takes no bytes" : std::strerror(errno);
    }
  }
  unwritten_.erase(0, written);
  return refusal_.empty();
}

void MetricsLog::warn(const std::string& text) { warning_ += (warning_.empty() ? "" : "\n") + text; }

std::string MetricsLog::take_warning() { return std::exchange(warning_, {}); }

std::string MetricsLog::sync() const {
  return fsync(descriptor_) == 0 ? "" : path_ + " cannot be synced: " + std::strerror(errno);
}

void MetricsLog::start(const Config& config, int64_t parameters, const std::string& backend, int ranks) {
  append(text_of({{"event", "start"},
                  {"name", config.name},
                  {"seed", config.seed},
                  {"strategy", strategy_info(config.precision.strategy).name},
                  {"parameters", parameters},
                  {"bytes_per_parameter", bytes_per_parameter(config)},
                  {"steps", config.steps},
                  {"ranks", ranks},
                  {"zero_stage", config.parallel.zero_stage},
                  {"reduction", value_text(*find_key("parallel.reduction"), config)},
                  {"backend", backend},
                  {"commit", commit()}}));
}

void MetricsLog::step(const StepRecord& r) {
  Json event = {{"event", "step"},
                {"step", r.step},
                {"tokens", r.tokens},
                {"loss", number(r.loss)},
                {"gradient_norm", number(r.gradient_norm)},
                {"clip_factor", number(r.clip_factor)},
                {"learning_rate", r.learning_rate},
                {"tokens_per_second", r.tokens_per_second},
                {"step_seconds", r.step_seconds}};
  if (r.skipped) event["skipped"] = true;
  if (r.measured) {
    add_measures(event, r.measures.model);
    Json& groups = event["groups"] = Json::object();
    for (size_t g = 0; g < kParameterGroups; ++g) {
      const UpdateMeasures& m = r.measures.groups[g];
      if (m.weight_norm == 0 && m.gradient_norm == 0) continue;  // a group that this model has not
      Json& group = groups[name_of(static_cast<ParameterGroup>(g))] = {{"gradient_norm", number(m.gradient_norm)}};
      add_measures(group, m);
    }
  }
  append(text_of(event));
}

void MetricsLog::evaluation(int64_t step, const EvaluationResult& r) {
  append(text_of({{"event", "evaluation"},
                  {"step", step},
                  {"loss", number(r.loss)},
                  {"perplexity", number(r.perplexity)},
                  {"bits_per_byte", number(r.bits_per_byte)},
                  {"targets", r.targets},
                  {"seconds", r.seconds}}));
}

void MetricsLog::sample(int64_t step, const std::string& text) {
  append(text_of({{"event", "sample"}, {"step", step}, {"text", text}}));
}

void MetricsLog::guard(int64_t step, const GuardVerdict& verdict, double loss, double gradient_norm) {
  append(text_of({{"event", "guard"},
                  {"step", step},
                  {"reason", verdict.reason},
                  {"loss", number(loss)},
                  {"gradient_norm", number(gradient_norm)},
                  {"loss_z", number(verdict.loss_z)},
                  {"gradient_z", number(verdict.gradient_z)},
                  {"skipped_in_a_row", verdict.skipped_in_a_row}}));
}

void MetricsLog::checkpoint(const CheckpointEvent& e) {
  Json event = {{"event", "checkpoint"}, {"step", e.step}};
  if (!e.path.empty()) {
    event.update({{"path", e.path},
                  {"bytes", e.bytes},
                  {"seconds", e.seconds},
                  {"stall_seconds", e.stall_seconds},
                  {"copy_seconds", e.copy_seconds},
                  {"write_seconds", e.write_seconds}});
  }
  if (!e.error.empty()) event["error"] = e.error;
  append(text_of(event));
}

void MetricsLog::resume(int64_t step, const std::string& from, int ranks, int zero_stage) {
  append(text_of({{"event", "resume"},
                  {"step", step},
                  {"from", from},
                  {"ranks", ranks},
                  {"zero_stage", zero_stage},
                  {"commit", commit()}}));
}

void MetricsLog::end(int64_t step, const std::string& reason, double seconds) {
  append(text_of({{"event", "end"}, {"step", step}, {"reason", reason}, {"seconds", seconds}}));
  if (refusal_.empty()) return;
  throw Error(fmt::format("{} cannot be written: {}; events lost: {}\n       cures: free some space there", path_,
                          refusal_, waiting_));
}

}  // namespace dither
