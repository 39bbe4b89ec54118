#include "src/comparison/run_record.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/counted.h"
#include "base/error.h"
#include "base/input_file.h"

namespace dither {

namespace fs = std::filesystem;

namespace {

using Json = nlohmann::json;

constexpr size_t kFinalShare = 20;  // the final loss is that of the last 1/20 of the steps: the noise of a step is gone

double real(const Json& event, const char* field) {
  const auto found = event.find(field);
  return found != event.end() && found->is_number() ? found->get<double>() : NAN;
}

int64_t integer(const Json& event, const char* field) {
  const auto found = event.find(field);
  return found != event.end() && found->is_number_integer() ? found->get<int64_t>() : 0;
}

std::string text(const Json& event, const char* field) {
  const auto found = event.find(field);
  return found != event.end() && found->is_string() ? found->get<std::string>() : "";
}

StepPoint step_of(const Json& event) {
  StepPoint p;
  p.step = integer(event, "step");
  p.tokens = integer(event, "tokens");
  p.loss = real(event, "loss");
  p.gradient_norm = real(event, "gradient_norm");
  p.learning_rate = real(event, "learning_rate");
  p.step_seconds = real(event, "step_seconds");
  p.tokens_per_second = real(event, "tokens_per_second");
  p.skipped = event.value("skipped", Json()) == Json(true);
  p.measured = event.contains("edq");
  p.edq = real(event, "edq");
  p.edq_full = real(event, "edq_full");
  p.imprecision = real(event, "imprecision");
  p.update_to_ulp = real(event, "update_to_ulp");
  return p;
}

EvaluationPoint evaluation_of(const Json& event) {
  EvaluationPoint p;
  p.step = integer(event, "step");
  p.loss = real(event, "loss");
  p.bits_per_byte = real(event, "bits_per_byte");
  p.targets = integer(event, "targets");
  p.set_targets = integer(event, "set_targets");
  p.bytes = integer(event, "bytes");
  p.judged = text(event, "judged");
  p.shards = text(event, "shards");
  p.tokenizer = text(event, "tokenizer");
  p.text = text(event, "text");
  return p;
}

template <class Point>
void drop_after(int64_t step, std::vector<Point>& points) {
  while (!points.empty() && points.back().step > step) points.pop_back();
}

/// The same program may go on with a run, or another one.
void add_commit(const std::string& commit, RunRecord& record) {
  const std::string last = record.commit.substr(record.commit.rfind(' ') + 1);  // npos + 1 is 0
  if (commit.empty() || commit == last) return;
  record.commit += (record.commit.empty() ? "" : " then ") + commit;
}

// What a resumed run does again was said before: the earlier events of later steps go.
void resume(const Json& event, RunRecord& record) {
  const int64_t step = integer(event, "step");
  drop_after(step, record.steps);
  drop_after(step, record.evaluations);
  drop_after(step, record.skips);
  record.end_reason.clear();
  if (step == 0) record.commit.clear();
  add_commit(text(event, "commit"), record);
}

void take(const Json& event, RunRecord& record) {
  const std::string kind = text(event, "event");
  if (kind == "step") {
    record.steps.push_back(step_of(event));
  } else if (kind == "evaluation") {
    record.evaluations.push_back(evaluation_of(event));
  } else if (kind == "start") {
    add_commit(text(event, "commit"), record);
    record.parameters = integer(event, "parameters");
    record.bytes_per_parameter = real(event, "bytes_per_parameter");
    record.shards = text(event, "shards");
    record.tokenizer = text(event, "tokenizer");
  } else if (kind == "guard") {
    record.skips.push_back({integer(event, "step"), text(event, "reason"), integer(event, "skipped_in_a_row")});
  } else if (kind == "resume") {
    resume(event, record);
  } else if (kind == "end") {
    record.end_reason = text(event, "reason");
  }
}

/// The first step that changed the weights; null if none did.
const StepPoint* first_applied(const RunRecord& record) {
  const auto found =
      std::find_if(record.steps.begin(), record.steps.end(), [](const StepPoint& s) { return !s.skipped; });
  return found == record.steps.end() ? nullptr : &*found;
}

/// The loss of random weights: of the first applied step, of a run that began at step 1. NaN for one that began at
/// another's checkpoint, whose first loss is that of trained weights on one batch.
double first_loss(const RunRecord& record) {
  const StepPoint* first = first_applied(record);
  return first != nullptr && record.steps.front().step == 1 ? first->loss : NAN;
}

/// Whether another process of this user has the file open. Processes that cannot be looked at count as not having it.
bool is_open_elsewhere(const std::string& path) {
  std::error_code no;
  const fs::path file = fs::canonical(path, no);
  if (no) return false;
  for (const auto& process : fs::directory_iterator("/proc", no)) {
    const std::string id = process.path().filename().string();
    if (id.find_first_not_of("0123456789") != std::string::npos || id == std::to_string(getpid())) continue;
    std::error_code gone;  // it may end while we look
    for (fs::directory_iterator open(process.path() / "fd", gone), end; !gone && open != end; open.increment(gone)) {
      std::error_code closed;
      if (fs::read_symlink(open->path(), closed) == file) return true;
    }
  }
  return false;
}

}  // namespace

bool MetricsReader::read(RunRecord& record) {
  constexpr InputKind kMetrics = {"metrics", "a metrics.jsonl"};
  constexpr int64_t kPiece = 64 << 20;  // at once; a line has some hundred bytes
  std::error_code unknown;              // of a run that has not begun
  if (!fs::exists(path_, unknown)) return false;
  bool found = false;
  while (true) {
    const std::string bytes = read_input_from(path_, kMetrics, offset_, kPiece);
    const size_t whole = bytes.rfind('\n');
    if (whole == std::string::npos) return found;
    for (size_t begin = 0; begin <= whole;) {
      const size_t end = bytes.find('\n', begin);
      const Json event = Json::parse(bytes.begin() + static_cast<int64_t>(begin),
                                     bytes.begin() + static_cast<int64_t>(end), nullptr, false);
      if (event.is_object()) take(event, record);
      begin = end + 1;
    }
    offset_ += static_cast<int64_t>(whole) + 1;
    found = true;
  }
}

bool is_run_folder(const std::string& folder) {
  std::error_code unknown;  // what cannot be looked at is no run's folder
  return fs::is_regular_file(folder + "/config.json", unknown);
}

RunRecord read_run(const std::string& folder) {
  RunRecord record;
  record.folder = folder;
  record.config = read_run_config(folder);
  read_metrics(record);
  return record;
}

Config read_run_config(const std::string& folder) {
  const std::string path = folder + "/config.json";
  std::error_code unknown;
  if (!fs::exists(path, unknown)) {
    throw Error(folder + " is not the folder of a run: it has no config.json\n       needs: a run's folder, or one " +
                "that has run folders in it");
  }
  std::vector<std::string> warnings;  // of a run that was begun with them: they were said then
  return parse_config(read_input(path, kConfigFile), path, {}, warnings);
}

void read_metrics(RunRecord& record) {
  const std::string metrics = record.folder + "/metrics.jsonl";
  MetricsReader(metrics).read(record);
  if (!record.end_reason.empty()) return;
  record.running = is_open_elsewhere(metrics);
  record.error = last_error(log_path_of(record.folder));
}

std::string log_path_of(const std::string& folder) {
  fs::path path(folder);
  if (!path.has_filename()) path = path.parent_path();  // "runs/quick/a/"
  return (path.parent_path() / "logs" / (path.filename().string() + ".txt")).string();
}

std::string last_error(const std::string& log_path) {
  std::error_code unknown;
  if (!fs::is_regular_file(log_path, unknown)) return "";
  std::ifstream file(log_path, std::ios::binary);
  std::string last;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("error: ", 0) == 0 || line.rfind("internal error: ", 0) == 0) last = line;
  }
  return last;
}

bool is_finished(const RunRecord& record) { return record.end_reason == "completed" || record.end_reason == "skipped"; }

double train_loss(const RunRecord& record) {
  const size_t done = record.steps.size(), last = std::max<size_t>(1, done / kFinalShare);
  double sum = 0;
  int64_t applied = 0;
  for (size_t i = done; i > 0 && (done - i < last || applied == 0); --i) {
    if (record.steps[i - 1].skipped) continue;
    sum += record.steps[i - 1].loss;
    ++applied;
  }
  return applied > 0 && std::isfinite(sum) ? sum / static_cast<double>(applied) : NAN;
}

RunState state_of(const RunRecord& record) {
  if (record.end_reason.empty()) return record.running ? RunState::incomplete : RunState::failed;
  if (record.end_reason == "signal") return RunState::incomplete;
  if (record.end_reason == "skipped") return RunState::diverged;
  const double loss = train_loss(record);
  return std::isfinite(loss) && !(loss > first_loss(record)) ? RunState::completed : RunState::diverged;
}

const char* name_of(RunState state) {
  switch (state) {
    case RunState::completed:
      return "completed";
    case RunState::diverged:
      return "diverged";
    case RunState::failed:
      return "failed";
    case RunState::incomplete:
      break;
  }
  return "incomplete";
}

std::string reason_of(const RunRecord& record) {
  const std::string done = fmt::format("after step {} of {}", record.steps_done(), record.config.steps);
  switch (state_of(record)) {
    case RunState::completed:
      return "";
    case RunState::incomplete:
      return record.running ? "still running, " + done : "ended by a signal " + done;
    case RunState::failed:
      return record.error.empty() ? "killed " + done : record.error;
    case RunState::diverged:
      break;
  }
  if (record.end_reason == "skipped") {
    const SkipPoint last = record.skips.empty() ? SkipPoint() : record.skips.back();
    return fmt::format("{} in a row skipped: {}", counted(last.in_a_row, "step"), last.reason);
  }
  if (first_applied(record) == nullptr) return "no step was applied";
  const double loss = train_loss(record);
  if (!std::isfinite(loss)) return "the final loss is not finite";
  return fmt::format("the final loss {:.4f} is above the first step's {:.4f}", loss, first_loss(record));
}

}  // namespace dither
