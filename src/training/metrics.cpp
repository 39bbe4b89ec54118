#include "src/training/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>
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

}  // namespace

bool has_ended(const std::string& metrics_path, int64_t step) {
  constexpr std::streamoff kLongestEnd = 4096;
  std::error_code unknown;
  if (!std::filesystem::is_regular_file(metrics_path, unknown)) return false;
  std::ifstream file(metrics_path, std::ios::binary | std::ios::ate);
  const std::streamoff size = file.tellg();
  file.seekg(std::max<std::streamoff>(0, size - kLongestEnd));
  std::string line, last;
  while (std::getline(file, line)) last = line;
  std::string begin = text_of({{"event", "end"}, {"step", step}});  // as end() writes it, but for what follows
  begin.back() = ',';
  return last.rfind(begin, 0) == 0 && last.find(R"("reason":"signal")") == std::string::npos;
}

bool begins_as_metrics(const std::string& path) {
  constexpr std::string_view kBegin = R"({"event":"start","name":)";  // as start() writes it
  std::error_code unknown;
  if (!std::filesystem::is_regular_file(path, unknown)) return false;
  std::ifstream file(path, std::ios::binary);
  std::string text(kBegin.size(), '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  return file && text == kBegin;
}

void MetricsLog::append(const std::string& line) {
  const bool refused_before = !refusal_.empty();
  refusal_ = file_.append(line + '\n');
  if (refusal_.empty()) {
    if (refused_before) warn(fmt::format("{} is written again; events that had waited: {}", file_.path(), waiting_));
    waiting_ = 0;
    return;
  }
  ++waiting_;
  if (!refused_before) {
    warn(fmt::format("{} cannot be written: {}; training goes on, and events wait in memory until the disk takes them",
                     file_.path(), refusal_));
  }
}

void MetricsLog::warn(const std::string& text) { warning_ += (warning_.empty() ? "" : "\n") + text; }

std::string MetricsLog::take_warning() { return std::exchange(warning_, {}); }

void MetricsLog::start(const Config& config, int64_t parameters, const std::string& backend, int ranks,
                       const DataIdentity& data) {
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
                  {"shards", data.shards},
                  {"tokenizer", data.tokenizer},
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

void MetricsLog::evaluation(int64_t step, const EvaluationResult& r, const JudgedData& data) {
  append(text_of({{"event", "evaluation"},
                  {"step", step},
                  {"loss", number(r.loss)},
                  {"perplexity", number(r.perplexity)},
                  {"bits_per_byte", number(r.bits_per_byte)},
                  {"targets", r.targets},
                  {"set_targets", data.set_targets},
                  {"bytes", r.bytes},
                  {"judged", data.judged},
                  {"shards", data.shards},
                  {"tokenizer", data.tokenizer},
                  {"text", data.text},
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
  throw Error(fmt::format("{} cannot be written: {}; events lost: {}\n       cures: free some space there",
                          file_.path(), refusal_, waiting_));
}

}  // namespace dither
