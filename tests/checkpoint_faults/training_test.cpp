// Training on a disk that fails: a checkpoint that cannot be written is told, and costs nothing else.
#include <fcntl.h>
#include <sys/wait.h>

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
    if (left.status == 0) look(left);
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

// Catches: a disk that stays full and ends the run at last, the first checkpoint removed in vain.
TEST_CASE("a disk that fails for good costs all later checkpoints and nothing else") {
  FaultyRun run;
  const Left whole = run.train({.at = kNever});
  const Left left = run.train({.at = 3, .operation = DiskOperation::create, .for_good = true});
  CAPTURE(left.errors);
  REQUIRE(left.status == 0);
  REQUIRE(left.weights == whole.weights);
  REQUIRE(left.failed == Steps{12, 18, 18});  // the last state has another try at the end
  REQUIRE(left.listed == Steps{6});
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
