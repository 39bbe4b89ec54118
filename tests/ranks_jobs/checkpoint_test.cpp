// Checkpoints of jobs: saved by several ranks, one of which may fail at it, and resumed by other numbers of them after
// all were killed.
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <thread>

#include "tests/catch.h"
#include "tests/ranks_jobs/job.h"

namespace dither::test {

namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

constexpr double kSoon = 30;  // seconds, on a busy machine
constexpr int64_t kSteps = 100;

/// A short job that saves; `reduction`: under `ordered` no bit depends on the number of ranks.
std::vector<std::string> saving(const std::string& directory, const std::string& reduction = "ordered") {
  std::vector<std::string> arguments;
  for (const std::string& setting :
       {"steps=" + std::to_string(kSteps), "logging.directory=" + directory, "parallel.reduction=" + reduction,
        std::string("parallel.zero_stage=1"), std::string("checkpoint.every_steps=10"),
        std::string("checkpoint.keep_last=99"), std::string("logging.measure_every_steps=5")}) {
    arguments.insert(arguments.end(), {"--set", setting});
  }
  return arguments;
}

/// Events of a kind in a run's metrics; lines that a kill has cut are none.
std::vector<Json> events_in(const std::string& run, const std::string& kind) {
  std::vector<Json> found;
  std::istringstream lines(read_whole(run + "/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const Json event = Json::parse(line, nullptr, false);
    if (event.is_object() && event.at("event") == kind) found.push_back(event);
  }
  return found;
}

/// What each step from `first` on computed, without times.
std::string losses(const std::string& run, int64_t first) {
  std::string text;
  for (const Json& event : events_in(run, "step")) {
    if (event.at("step") < first) continue;
    text += event.at("step").dump() + " " + event.at("loss").dump() + " " + event.at("gradient_norm").dump() + " " +
            event.value("edq", Json()).dump() + "\n";
  }
  return text;
}

Json last_event(const std::string& run, const std::string& kind) {
  const std::vector<Json> events = events_in(run, kind);
  REQUIRE(!events.empty());
  return events.back();
}

Outcome trained(const JobPlace& place, int ranks, const std::string& directory, int status = 0) {
  Job job(place, "environment", ranks, saving(directory));
  const Outcome outcome = job.wait(kSoon);
  INFO(ranks << " ranks\n" << outcome.out << outcome.err);
  REQUIRE(outcome.status == status);
  return outcome;
}

/// Kills both ranks of a job between its first checkpoint and its last step; the run is in `directory`.
void kill_in_mid_run(const JobPlace& place, const std::string& directory) {
  const std::string run = place / (directory + "/c");
  constexpr int kAttempts = 10;  // on a busy machine a job may end before anybody looks
  for (int i = 0; i < kAttempts; ++i) {
    fs::remove_all(run);
    for (const char* rank : {"0", "1"}) fs::remove(place / (std::string("pid.") + rank));
    Job job(place, "environment", 2, saving(directory));
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (events_in(run, "checkpoint").empty()) {
      REQUIRE(std::chrono::steady_clock::now() < end);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    if (job.is_gone(0) || job.is_gone(1)) continue;
    job.send_rank(0, SIGKILL);
    job.send_rank(1, SIGKILL);
    job.wait(kSoon);
    if (last_event(run, "step").at("step") < kSteps) return;
  }
  FAIL("the job always ended before it could be killed");
}

}  // namespace

// Catches: shards that only as many ranks can read, a rank's part of the state that is lost or doubled, a loss that
// depends on how many ranks go on, a rank without a micro-batch that cannot load.
TEST_CASE("a job of two ranks that was killed is resumed by one and by three to the losses of one never killed") {
  const JobPlace place;
  trained(place, 2, "whole");
  kill_in_mid_run(place, "runs");
  fs::copy(place / "runs", place / "three", fs::copy_options::recursive);
  for (const int ranks : {1, 3}) {
    const std::string directory = ranks == 1 ? "runs" : "three", run = place / (directory + "/c");
    const Outcome outcome = trained(place, ranks, directory);
    INFO(ranks << " ranks\n" << outcome.out);
    REQUIRE(has(outcome.out, "; written by 2 ranks"));
    const Json resume = last_event(run, "resume");
    const int64_t from = resume.at("step");
    REQUIRE((from >= 10 && from < kSteps && from % 10 == 0));
    REQUIRE(resume.at("ranks") == ranks);
    const std::string all = losses(run, from + 1), whole = losses(place / "whole/c", from + 1);
    REQUIRE(!whole.empty());
    REQUIRE(all.size() >= whole.size());  // those before the kill come first
    REQUIRE((all.substr(all.size() - whole.size()) == whole));
    REQUIRE((tensors_of(run + "/weights.safetensors") == tensors_of(place / "whole/c/weights.safetensors")));
    place.output_of({"checkpoint", "verify", directory + "/c"});
  }
}

// Catches: ranks that each write a checkpoint of their own, of which none is whole; a job that finds that out when it
// saves for the first time, hours later.
TEST_CASE("a relative folder that ranks in different places do not share is refused at the start, by name") {
  const JobPlace place;
  place.copy_corpus();
  place.prepare_rank(1, "cd other");
  Job job(place, "environment", 2, saving("runs"));
  const Outcome outcome = job.wait(kSoon);
  INFO(outcome.err);
  REQUIRE(outcome.status == 2);
  REQUIRE(has(outcome.err, "error: rank 1 does not see in "));
  REQUIRE(has(outcome.err, "other/runs/c what rank 0 writes there: checkpoints need a folder that all ranks share\n"));
  REQUIRE(has(outcome.err, "cures: logging.directory on a file system of all nodes, or checkpoint.every_steps=0"));
  REQUIRE(events_in(place / "runs/c", "step").empty());
  REQUIRE(!fs::exists(place / "other/runs"));

  std::vector<std::string> without = saving("alone");
  without.insert(without.end(), {"--set", "checkpoint.every_steps=0"});
  Job other(place, "environment", 2, without);
  const Outcome trains = other.wait(kSoon);
  INFO(trains.err);
  REQUIRE(trains.status == 0);
}

// Catches: a failure that only its rank knows of while the others wait or give the checkpoint its name, one that ends
// the job before its end, a message that does not say whose disk is full, a status of 0 although nothing was saved.
TEST_CASE("a rank that cannot write its shard costs the checkpoint, is named, and all train on") {
  const JobPlace place;
  place.prepare_rank(1, "ulimit -f 20");  // KiB; its shard has some 200
  const Outcome outcome = trained(place, 2, "runs", 2);
  INFO(outcome.out);
  REQUIRE(has(outcome.err, "error: the state after step 100 is not saved, only its weights are"));
  REQUIRE(has(outcome.out,
              "warning: checkpoint of step 10: rank 1: runs/c/checkpoints/step-00000010.partial/"
              "rank-00001.safetensors: cannot be written: File too large"));
  const std::vector<Json> events = events_in(place / "runs/c", "checkpoint");
  REQUIRE(events.size() >= kSteps / 10);  // each is tried
  for (const Json& event : events) REQUIRE(has(event.at("error"), "rank 1: "));
  REQUIRE(last_event(place / "runs/c", "end").at("reason") == "completed");
  REQUIRE(fs::is_empty(place / "runs/c/checkpoints"));
  trained(place, 1, "one");
  REQUIRE((tensors_of(place / "runs/c/weights.safetensors") == tensors_of(place / "one/c/weights.safetensors")));
}

}  // namespace dither::test
