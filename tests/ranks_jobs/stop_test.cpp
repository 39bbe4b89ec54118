// Jobs that end well: all ranks come to the last step, or stop together after the step at hand when one of them is
// asked to.
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "tests/catch.h"
#include "tests/ranks_jobs/job.h"

namespace dither::test {

namespace fs = std::filesystem;

namespace {

constexpr double kSoon = 30;  // seconds, on a busy machine

/// Under `ordered` every number of ranks leaves the same bits: what a stopped job has written can be computed again.
const std::vector<std::string> kOrdered = {"--set", "parallel.reduction=ordered", "--set", "parallel.zero_stage=3"};

/// The tensors that one rank has after `steps` steps.
std::string tensors_of_one_rank(const JobPlace& place, int64_t steps) {
  std::vector<std::string> arguments = {"train",    "c.json", "--set",
                                        "name=one", "--set",  "steps=" + std::to_string(steps)};
  arguments.insert(arguments.end(), kOrdered.begin(), kOrdered.end());
  place.output_of(arguments);
  return tensors_of(place / "runs/one/weights.safetensors");
}

/// Steps done by a job that was stopped; its metrics must say so.
int64_t stopped_after(const JobPlace& place) {
  const nlohmann::json end = place.events("c").back();
  REQUIRE(end.at("event") == "end");
  REQUIRE(end.at("reason") == "signal");
  return end.at("step").get<int64_t>();
}

void check_weights(const JobPlace& place, int64_t steps) {
  REQUIRE(steps >= 3);
  REQUIRE(tensors_of(place.weights_path()) == tensors_of_one_rank(place, steps));
}

}  // namespace

// Catches: ranks that train apart, weights of one rank's shard, a rank that computes another's micro-batches, metrics
// that do not say how many ranks there were.
TEST_CASE("two ranks by either launcher leave the tensors of one rank") {
  const std::string launcher = GENERATE(from_range(launchers()));
  const JobPlace place;
  std::vector<std::string> arguments = kOrdered;
  arguments.insert(arguments.end(), {"--set", "steps=20"});
  Job job(place, launcher, 2, arguments);
  const Outcome outcome = job.wait(kSoon);
  INFO(launcher << "\n" << outcome.err);
  REQUIRE(outcome.status == 0);
  REQUIRE(outcome.err.empty());
  check_weights(place, 20);
  const nlohmann::json start = place.events("c").front();
  REQUIRE(start.at("ranks") == 2);
  REQUIRE(start.at("zero_stage") == 3);
  REQUIRE(start.at("reduction") == "ordered");
  REQUIRE(place.events("one").front().at("ranks") == 1);
  REQUIRE(place.events("one").front().at("name") == "one");
}

// Catches: a rank that has nothing to do, of which nobody is told where training starts; sums in which it is missed.
TEST_CASE("a job with a rank without work says so and leaves the tensors of one rank") {
  const JobPlace place;
  std::vector<std::string> arguments = kOrdered;
  arguments.insert(arguments.end(), {"--set", "steps=3"});
  Job job(place, "environment", 3, arguments);
  const Outcome outcome = job.wait(kSoon);
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 0);
  REQUIRE(has(outcome.out, "warning: ranks without work: 1 of 3: "));
  REQUIRE(tensors_of(place.weights_path()) == tensors_of_one_rank(place, 3));
}

// Catches: collectives from before the first step or of the last evaluation, counted into the time of the steps alone.
TEST_CASE("the share of the training time that a rank spends in collectives is at most all of it") {
  const JobPlace place;
  Job job(place, "environment", 2, {"--set", "steps=1", "--set", "parallel.zero_stage=3"});
  const Outcome outcome = job.wait(kSoon);
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 0);
  const std::string label = "in them, waiting included, for ";
  const size_t begin = outcome.out.find(label);
  REQUIRE(begin != std::string::npos);
  const double share = std::stod(outcome.out.substr(begin + label.size()));
  REQUIRE(share > 0);
  REQUIRE(share <= 100);
}

// Catches: a request that only the rank which got it follows, ranks that stop at different steps, a stop without
// weights or with a failing status.
TEST_CASE("a signal to one rank stops all after the same step, with weights and status 0") {
  const std::string launcher = GENERATE(from_range(launchers()));
  const int rank = GENERATE(0, 1);
  const int signal = rank == 0 ? SIGUSR1 : SIGTERM;
  const JobPlace place;
  Job job(place, launcher, 2, kOrdered);
  job.await_training();
  job.send_rank(rank, signal);
  const Outcome outcome = job.wait(kSoon);
  INFO(launcher << "\n" << outcome.err);
  REQUIRE(outcome.status == 0);
  REQUIRE(outcome.err.empty());
  REQUIRE(has(outcome.out, rank == 0 ? "stopped by SIGUSR1 after step " : "stopped by a signal to another rank after"));
  check_weights(place, stopped_after(place));
}

// Catches: ranks that do not agree on breaking off an evaluation, a stop that waits for it.
TEST_CASE("a signal to one rank stops all before or in an evaluation, and only saves") {
  const JobPlace place;
  Job job(place, "environment", 2, {"--set", "evaluation.every_steps=1"});
  job.await_training();
  job.send_rank(1, SIGTERM);
  const Outcome outcome = job.wait(kSoon);
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  const int64_t last = stopped_after(place);
  int64_t evaluated = 0;
  for (const nlohmann::json& event : place.events("c")) {
    if (event.at("event") == "evaluation") evaluated = event.at("step");
  }
  REQUIRE(evaluated >= 1);
  REQUIRE(evaluated < last);
}

// Catches: a damaged validation shard that ends a job of several ranks, or leaves them in different collectives.
TEST_CASE("an evaluation that fails on one rank is a warning on all") {
  const JobPlace place;
  place.copy_corpus();
  place.prepare_rank(1, "cd other");
  Job job(place, "environment", 2, {"--set", "evaluation.every_steps=1", "--set", "checkpoint.every_steps=0"});
  job.await_training();
  {
    const std::string path = place / "other/data/val_000000.bin";
    std::fstream shard(path, std::ios::binary | std::ios::in | std::ios::out);  // in place
    shard.seekp(1024);
    const std::string beyond(fs::file_size(path) - 1024, '\x7f');
    shard.write(beyond.data(), static_cast<std::streamsize>(beyond.size()));
  }
  const auto begin = std::chrono::steady_clock::now();
  while (!has(read_whole(place / "runs/c/log.txt"), "warning: evaluation at step ")) {
    REQUIRE(std::chrono::steady_clock::now() - begin < std::chrono::seconds(60));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  job.send_rank(0, SIGTERM);
  const Outcome outcome = job.wait(kSoon);
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  REQUIRE(has(read_whole(place / "runs/c/log.txt"), ": rank 1: data/val_000000.bin"));
}

// Catches: a launcher that takes its own signal for a rank's failure, that dies and leaves its ranks, or that passes a
// terminal's signal on as the second of its kind, which kills.
TEST_CASE("signals to run_ranks.sh and a terminal's Ctrl-C stop all ranks, with weights and status 0") {
  const bool terminal = GENERATE(true, false);
  const int signal = terminal ? SIGINT : GENERATE(SIGTERM, SIGUSR1);
  const JobPlace place;
  Job job(place, "environment", 2, kOrdered);
  job.await_training();
  terminal ? job.send_terminal(signal) : job.send_launcher(signal);
  const Outcome outcome = job.wait(kSoon);
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  REQUIRE(outcome.err.empty());
  check_weights(place, stopped_after(place));
}

// Catches: a SIGUSR1 that mpirun passes on and that kills the ranks.
TEST_CASE("SIGUSR1 to mpirun stops all ranks, with weights and status 0") {
  if (launchers().size() == 1) return;  // no MPI here
  const JobPlace place;
  Job job(place, "mpirun", 2, kOrdered);
  job.await_training();
  job.send_launcher(SIGUSR1);
  const Outcome outcome = job.wait(kSoon);
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  check_weights(place, stopped_after(place));
}

// Open MPI gives its ranks two seconds before it kills them, so weights are there only where steps are short. What must
// hold however busy the machine is: the job ends, and nothing of it is left.
TEST_CASE("a terminal's Ctrl-C ends a job of mpirun and leaves no rank behind") {
  if (launchers().size() == 1) return;  // no MPI here
  const JobPlace place;
  Job job(place, "mpirun", 2);
  job.await_training();
  job.send_terminal(SIGINT);
  job.wait(kSoon);
  REQUIRE(job.is_gone(0, kSoon));
  REQUIRE(job.is_gone(1, kSoon));
}

}  // namespace dither::test
