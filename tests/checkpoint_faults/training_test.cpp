// Training on a disk that fails: a checkpoint that cannot be written is told, and costs nothing else.
#include <fcntl.h>
#include <sys/wait.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <vector>

#include "src/training/train.h"
#include "tests/catch.h"
#include "tests/checkpoint_faults/faulty_disk.h"
#include "tests/checkpoint_faults/place.h"
#include "tests/checkpoint_faults/saved_state.h"  // steps_in(), verify()
#include "tests/training/tiny_run.h"

using namespace dither;
using namespace dither::test;
namespace fs = std::filesystem;

namespace {

constexpr int64_t kSteps = 18, kEvery = 6;  // three checkpoints, of which two are kept

/// What a run has left.
struct Left {
  int status = -1;               // the process's
  std::string weights;           // bytes of the file
  std::vector<int64_t> listed;   // checkpoints, all verified
  std::vector<int64_t> written;  // } steps that metrics.jsonl says this of
  std::vector<int64_t> failed;   // }
  std::string errors;            // of the failed ones
};

class FaultyRun {
 public:
  FaultyRun() {
    write_shard(place_ / "train.bin", 4000, 61);
    config_ = tiny_config(Strategy::bf16_sr);
    config_.steps = kSteps;
    config_.data.train = place_ / "train.bin";
    config_.model.layers = 1;
    config_.parallel.threads = 1;
    config_.checkpoint.every_steps = kEvery;
    config_.checkpoint.retry_seconds = 0;
    config_.logging.directory = place_.real();
  }
  std::string checkpoints() const { return place_ / "tiny/checkpoints"; }
  Config& config() { return config_; }

  /// Trains from the beginning, in a process of its own that says nothing.
  Left train(const DiskFault& fault) const {
    fs::remove_all(place_ / "tiny");
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) run_child(fault);
    Left left;
    REQUIRE(waitpid(child, &left.status, 0) == child);
    look(left);
    return left;
  }

 private:
  [[noreturn]] void run_child(const DiskFault& fault) const {
    const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (nowhere < 0 || dup2(nowhere, STDOUT_FILENO) < 0 || dup2(nowhere, STDERR_FILENO) < 0) _exit(1);
    try {
      Ranks ranks;
      FaultyDisk files(disk(), fault);
      TrainOptions options;
      options.files = &files;
      dither::train(config_, options, ranks);
    } catch (...) {
      _exit(2);
    }
    _exit(0);
  }
  void look(Left& left) const {
    std::ifstream weights(place_ / "tiny/weights.safetensors", std::ios::binary),
        metrics(place_ / "tiny/metrics.jsonl");
    left.weights = {std::istreambuf_iterator<char>(weights), std::istreambuf_iterator<char>()};
    for (std::string line; std::getline(metrics, line);) {
      const nlohmann::json event = nlohmann::json::parse(line);
      if (event.at("event") != "checkpoint") continue;
      (event.contains("error") ? left.failed : left.written).push_back(event.at("step"));
      if (event.contains("error")) left.errors += event.at("error").get<std::string>() + "\n";
    }
    left.listed = steps_in(checkpoints());
    for (const int64_t step : left.listed) verify(path_in(checkpoints(), step));
  }

  const Place place_;
  Config config_;
};

constexpr int64_t kNever = 1'000'000'000;
using Steps = std::vector<int64_t>;

}  // namespace

// Catches: a failure that ends training or changes what it computes, one that nobody is told of, an old checkpoint that
// goes although no new one came, an attempt that is the last one.
TEST_CASE(
    "a fault in one checkpoint is told, training goes on to the same weights, and the next checkpoint is written") {
  FaultyRun run;
  run.config().checkpoint.async = GENERATE(true, false);
  const Left whole = run.train({.at = kNever});
  REQUIRE(whole.status == 0);
  REQUIRE_FALSE(whole.weights.empty());
  REQUIRE(whole.written == Steps{6, 12, 18});
  REQUIRE(whole.listed == Steps{12, 18});
  struct Case {
    DiskOperation operation;
    int64_t at;  // in the second checkpoint
    DiskFailure failure = DiskFailure::no_space;
  };
  // Each checkpoint: two files are created and synced, three folders synced, and one name given.
  std::vector<Case> cases = {{DiskOperation::create, 4, DiskFailure::permission_denied}, {DiskOperation::rename, 2}};
  if (run.config().checkpoint.async) {
    cases.push_back({DiskOperation::create, 3});
    cases.push_back({DiskOperation::sync_file, 3});
    cases.push_back({DiskOperation::sync_folder, 5});
    cases.push_back({DiskOperation::free_bytes, 2});
  }
  for (const Case& c : cases) {
    CAPTURE(static_cast<int>(c.operation), c.at, run.config().checkpoint.async);
    const Left left = run.train({.failure = c.failure, .at = c.at, .operation = c.operation, .text = "the fault"});
    REQUIRE(left.status == 0);
    REQUIRE(left.weights == whole.weights);
    REQUIRE(left.written == Steps{6, 18});
    REQUIRE(left.failed == Steps{12});
    REQUIRE(left.listed == Steps{6, 18});
    const bool space = c.operation == DiskOperation::free_bytes;
    REQUIRE(left.errors.find(space ? "0.0 MiB are free" : "the fault") != std::string::npos);
  }
}

// Catches: a disk that stays full and ends the run before its end, the first checkpoint removed in vain, a status of 0
// although the last state is lost.
TEST_CASE("a disk that fails for good costs all later checkpoints, and the status says so") {
  FaultyRun run;
  const Left whole = run.train({.at = kNever});
  const Left left = run.train({.at = 3, .operation = DiskOperation::make_folder, .for_good = true});  // two each
  CAPTURE(left.errors);
  REQUIRE(WIFEXITED(left.status));
  REQUIRE(WEXITSTATUS(left.status) == 2);
  REQUIRE(left.weights == whole.weights);
  REQUIRE(left.failed.size() > 2);  // the last state has further tries at the end
  REQUIRE(left.failed[0] == 12);
  REQUIRE(left.failed.back() == 18);
  REQUIRE(left.listed == Steps{6});
}

// Catches: steps given up because the disk was full at the very end, weights that are tried once, a wait for a disk
// that refuses for another reason, a wait without an end.
TEST_CASE(
    "a disk that is full at the end of a run is tried again for checkpoint.retry_seconds, for state and weights") {
  FaultyRun run;
  run.config().checkpoint.retry_seconds = 1;
  run.config().checkpoint.every_steps = kSteps;  // two files are created for the state, one for the weights
  const Left whole = run.train({.at = kNever});
  const auto seconds_of = [&run](const DiskFault& fault, Left& left) {
    const auto begin = std::chrono::steady_clock::now();
    left = run.train(fault);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  Left left;
  seconds_of({.at = 1, .operation = DiskOperation::create, .times = 5}, left);
  REQUIRE(left.status == 0);
  REQUIRE((left.weights == whole.weights));
  REQUIRE(left.failed.size() > 2);
  REQUIRE(left.listed == Steps{18});

  const double full = seconds_of({.operation = DiskOperation::create, .for_good = true}, left);
  REQUIRE(WEXITSTATUS(left.status) == 2);
  REQUIRE(full > 0.8);

  run.config().checkpoint.retry_seconds = 3600;
  seconds_of({.failure = DiskFailure::permission_denied, .operation = DiskOperation::create, .for_good = true}, left);
  REQUIRE(WEXITSTATUS(left.status) == 2);
}

// Catches: a writer that trusts a folder to stay where it was made.
TEST_CASE("a folder that vanishes under the writer costs what was in it") {
  FaultyRun run;
  const Left whole = run.train({.at = kNever});
  SECTION("the partial one") {
    const Left left = run.train({.failure = DiskFailure::folder_vanished,
                                 .at = 4,
                                 .operation = DiskOperation::create,
                                 .folder = path_in(run.checkpoints(), 12) + ".partial"});
    CAPTURE(left.errors);
    REQUIRE(left.weights == whole.weights);
    REQUIRE(left.failed == Steps{12});
    REQUIRE(left.listed == Steps{6, 18});
  }
  SECTION("that of all checkpoints") {
    const Left left = run.train({.failure = DiskFailure::folder_vanished,
                                 .at = 4,
                                 .operation = DiskOperation::create,
                                 .folder = run.checkpoints()});
    CAPTURE(left.errors);
    REQUIRE(left.weights == whole.weights);
    REQUIRE(left.failed == Steps{12});
    REQUIRE(left.listed == Steps{18});
  }
}
