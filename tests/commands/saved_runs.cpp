// Making and reading the runs of saved_runs.h.
#include "tests/commands/saved_runs.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <sstream>
#include <thread>

#include "src/checkpoint/checkpoint_folder.h"
#include "tests/catch.h"

namespace dither::test {

namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

constexpr const char* kRun = R"({
  "steps": 6,
  "parallel": { "threads": 1 },
  "evaluation": { "every_steps": 3 },
  "checkpoint": { "every_steps": 2, "keep_last": 99 }
})";

}  // namespace

SavedRuns::SavedRuns(const std::string& patch) {
  prepare_corpus();
  Json config = Json::parse(kRun);
  config.merge_patch(Json::parse(patch));
  write_config("c.json", config.dump());
}

std::vector<std::string> SavedRuns::words(const std::string& name, const Settings& settings) {
  std::vector<std::string> words = {"train", "c.json", "--set", "name=" + name};
  for (const std::string& setting : settings) words.insert(words.end(), {"--set", setting});
  return words;
}

Outcome SavedRuns::attempt(const std::string& name, const Settings& settings) const {
  return run(words(name, settings));
}

std::string SavedRuns::train(const std::string& name, const Settings& settings) const {
  return output_of(words(name, settings));
}

std::string SavedRuns::refusal(const std::string& name, const Settings& settings) const {
  const Outcome outcome = attempt(name, settings);
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 2);
  return outcome.err;
}

int64_t SavedRuns::stop(const std::string& name, const std::function<bool()>& ready) const {
  Program program(path(), words(name));
  await(ready);
  program.send(SIGTERM);
  const Outcome outcome = program.wait();
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 0);
  REQUIRE(outcome.err.empty());
  const Json end = last_event(name, "end");
  REQUIRE(end.at("reason") == "signal");
  return end.at("step");
}

int64_t SavedRuns::kill_in_mid_run(const std::string& name, int64_t steps) const {
  constexpr int kAttempts = 10;  // on a busy machine a run may end before anybody looks
  for (int i = 0; i < kAttempts; ++i) {
    fs::remove_all(folder(name));
    Program program(path(), words(name));
    await([&] { return !written(name).empty(); });
    program.send(SIGKILL);
    const Outcome outcome = program.wait();
    if (outcome.status == 128 + SIGKILL && last_step(name) < steps) return last_step(name);
  }
  FAIL("the run always ended before it could be killed");
  return 0;
}

void SavedRuns::verify(const std::string& name) const { output_of({"checkpoint", "verify", "runs/" + name}); }

std::string SavedRuns::checkpoint(const std::string& name, int64_t step) const {
  return folder(name) + "/checkpoints/" + checkpoint_name(step);
}

std::string SavedRuns::shard(const std::string& name, int64_t step) const {
  return checkpoint(name, step) + "/" + shard_name(0);
}

Steps SavedRuns::checkpoints(const std::string& name) const {
  Steps steps;
  for (const CheckpointEntry& entry : list_checkpoints(folder(name) + "/checkpoints")) steps.push_back(entry.step);
  return steps;
}

void SavedRuns::copy_run(const std::string& from, const std::string& to) const {
  fs::remove_all(folder(to));
  fs::copy(folder(from), folder(to), fs::copy_options::recursive);
}

void SavedRuns::copy_killed(const std::string& from, const std::string& to, int64_t step) const {
  copy_run(from, to);
  fs::remove(folder(to) + "/weights.safetensors");
  for (const int64_t other : checkpoints(to)) {
    if (other > step) fs::remove_all(checkpoint(to, other));
  }
  const std::string path = folder(to) + "/metrics.jsonl", metrics = read_whole(path), step_line = R"({"event":"step")";
  write_file(path, metrics.substr(0, metrics.rfind(step_line) + step_line.size()));  // in the middle of the last step's
}

std::vector<Json> SavedRuns::all_events(const std::string& name, const std::string& kind) const {
  std::vector<Json> found;
  std::istringstream lines(read_whole(folder(name) + "/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const Json event = Json::parse(line, nullptr, false);
    if (event.is_object() && (kind.empty() || event.at("event") == kind)) found.push_back(event);
  }
  return found;
}

Json SavedRuns::last_event(const std::string& name, const std::string& kind) const {
  const std::vector<Json> events = all_events(name, kind);
  REQUIRE(!events.empty());
  return events.back();
}

std::string SavedRuns::history(const std::string& name, int64_t after) const {
  std::vector<Json> kept;
  for (Json event : all_events(name)) {
    const std::string kind = event.at("event");
    if (kind == "resume") {
      const auto undone = [&event](const Json& earlier) { return earlier.at("step") > event.at("step"); };
      kept.erase(std::remove_if(kept.begin(), kept.end(), undone), kept.end());
    }
    for (const char* time : {"tokens_per_second", "step_seconds", "seconds"}) event.erase(time);
    const bool computed = kind == "step" || kind == "evaluation" || kind == "guard";
    if (computed && event.at("step") > after) kept.push_back(event);
  }
  std::string text;
  for (const Json& event : kept) text += event.dump() + "\n";
  return text;
}

Steps SavedRuns::last_steps(const std::string& name) const {
  Steps steps;
  for (const Json& event : all_events(name)) {
    if (event.at("event") == "start") steps.clear();
    if (event.at("event") == "step") steps.push_back(event.at("step"));
  }
  return steps;
}

int64_t SavedRuns::first_step(const std::string& name) const {
  const Steps steps = last_steps(name);
  return steps.empty() ? 0 : steps.front();
}

int64_t SavedRuns::last_step(const std::string& name) const {
  const Steps steps = last_steps(name);
  return steps.empty() ? 0 : steps.back();
}

Steps SavedRuns::written(const std::string& name) const {
  Steps steps;
  for (const Json& event : all_events(name, "checkpoint")) {
    if (!event.contains("error")) steps.push_back(event.at("step"));
  }
  return steps;
}

Steps SavedRuns::failed(const std::string& name) const {
  Steps steps;
  for (const Json& event : all_events(name, "checkpoint")) {
    if (event.contains("error")) steps.push_back(event.at("step"));
  }
  return steps;
}

std::string SavedRuns::state(const std::string& name, int64_t step) const {
  const TrainingState s = read_manifest(checkpoint(name, step)).training;
  const Json numbers = {s.step, s.samples, s.tokens, s.losses, s.norms, s.skipped_steps, s.skipped_in_a_row};
  return numbers.dump() + read_whole(shard(name, step));
}

std::string SavedRuns::tensors(const std::string& name) const {
  const std::string file = weights(name);
  uint64_t header = 0;
  REQUIRE(file.size() > sizeof header);
  std::memcpy(&header, file.data(), sizeof header);
  REQUIRE(header < file.size());
  return file.substr(sizeof header + header);
}

std::map<std::string, std::string> SavedRuns::content(const std::string& name) const {
  std::map<std::string, std::string> files;
  if (!fs::exists(folder(name))) return files;
  for (const auto& entry : fs::recursive_directory_iterator(folder(name))) {
    const bool counts = entry.is_regular_file() && entry.path().filename() != "lock";
    if (counts) files[entry.path().string()] = read_whole(entry.path().string());
  }
  return files;
}

void await(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    REQUIRE(std::chrono::steady_clock::now() < end);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

}  // namespace dither::test
