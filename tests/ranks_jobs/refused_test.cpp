// Jobs that never begin: something differs between ranks, fits them badly, or a rank does not come. Each ends at once,
// says what is wrong and with whom, and leaves no run folder.
#include <chrono>
#include <cstring>
#include <filesystem>

#include "tests/catch.h"
#include "tests/ranks_jobs/job.h"

namespace dither::test {

namespace {

constexpr double kSoon = 30;  // seconds, on a busy machine; alone it takes half a second

/// Names of shared memory that a job's rank 0 has made and that is still there.
std::string shared_memory_of(pid_t process) {
  std::string names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    const std::string name = entry.path().filename();
    if (name.rfind("dither-" + std::to_string(process) + "-", 0) == 0) names += name + "\n";
  }
  return names;
}

/// The job's end, which must be an error of `dither` on both ranks that says `message`, before anything was written.
std::string refusal(const JobPlace& place, const std::string& launcher, const std::string& message,
                    const std::vector<std::string>& arguments = {}) {
  Job job(place, launcher, 2, arguments);
  const Outcome outcome = job.wait(kSoon);
  INFO(launcher << "\n" << outcome.err);
  CHECK(outcome.status == 2);
  CHECK(has(outcome.err, message));
  // mpirun ends the other rank when it sees the first go.
  const bool both = has(outcome.err, "rank 0: error: ") && has(outcome.err, "rank 1: error: ");
  CHECK((both || launcher == "mpirun"));
  CHECK(!place.has_run_folder());
  CHECK(!std::filesystem::exists(place / "other/runs"));
  CHECK(shared_memory_of(job.process_of(0)) == "");
  return outcome.err;
}

/// Whether the rank learned of another's failure: in its main thread, or by its watchdog once that runs.
bool learned(const std::string& error, int rank, const std::string& failure) {
  const std::string origin = "rank " + std::to_string(rank) + ": error: ";
  return has(error, origin + failure) || has(error, origin + "ending because " + failure);
}

}  // namespace

// Catches: configs that are not compared, compared by file instead of by value, a message that names the last part of
// the key alone or one of the values, rank 0 that begins its folder first.
TEST_CASE("a rank with another config is refused by the name of the key and both values") {
  const std::string launcher = GENERATE(from_range(launchers()));
  const JobPlace place;
  place.prepare_rank(1, R"(set -- "$@" --set optimizer.learning_rate=0.25)");
  refusal(place, launcher,
          "rank 1 has another config than rank 0: optimizer.learning_rate is 0.25 there, 0.002 on rank 0");
}

// Catches: a key that is meant for one rank alone taken for a difference.
TEST_CASE("ranks may each have a device_index of their own") {
  const JobPlace place;
  place.prepare_rank(1, R"(set -- "$@" --set parallel.device_index=1)");
  Job job(place, "environment", 2, {"--set", "steps=2"});
  const Outcome outcome = job.wait(kSoon);
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
}

// Catches: data that are compared by name or size alone, a message without the file, other validation data unseen.
TEST_CASE("a rank with other data is refused by the name of the file") {
  const bool training = GENERATE(true, false), longer = GENERATE(true, false);
  const JobPlace place;
  place.copy_corpus();
  place.prepare_rank(1, "cd other");
  const std::string name = training ? "train_000000.bin" : "val_000000.bin";
  std::string bytes = read_whole(place / ("data/" + name));
  uint16_t token = 0;
  std::memcpy(&token, bytes.data() + 1024 + 200, sizeof token);
  put<uint16_t>(bytes, 1024 + 200, token ^ 1);
  if (longer) {
    uint64_t count = 0;
    std::memcpy(&count, bytes.data() + 8, sizeof count);
    put<uint64_t>(bytes, 8, count + 1);
    put<uint16_t>(bytes, bytes.size(), 32);
  }
  write_file(place / ("other/data/" + name), bytes);
  const std::string what = training ? "training data" : "validation data";
  const std::string error = refusal(place, "environment", "rank 1 has other " + what + " than rank 0 under data/");
  CHECK(has(error, name + ": " + std::to_string(bytes.size()) + " bytes, "));
  CHECK(has(error, " there, " + name + ": " + std::to_string(bytes.size() - (longer ? 2 : 0)) + " bytes, "));
}

// Catches: an error on one rank that leaves the other waiting, or that the other reports without its reason.
TEST_CASE("a truncated shard on one rank ends all, by the name of the file") {
  const JobPlace place;
  place.copy_corpus();
  place.prepare_rank(1, "cd other");
  const std::string bytes = read_whole(place / "data/train_000000.bin");
  write_file(place / "other/data/train_000000.bin", bytes.substr(0, bytes.size() - 100));
  const std::string reason = "data/train_000000.bin: truncated: ";
  const std::string error = refusal(place, "environment", "rank 1: error: " + reason);
  CHECK(learned(error, 0, "rank 1 failed: " + reason));
}

// Catches: a bad --set on one rank that leaves the others waiting where they compare configs.
TEST_CASE("a config that one rank cannot read ends all") {
  const JobPlace place;
  place.prepare_rank(1, R"(set -- "$@" --set optimizer.momentum=1)");
  const std::string error = refusal(place, "environment", "rank 1: error: --set: optimizer.momentum is not a key");
  CHECK(learned(error, 0, "rank 1 failed: --set: optimizer.momentum is not a key"));
}

// Catches: a folder that only rank 0 misses, while the others wait for its first step.
TEST_CASE("a run folder that rank 0 cannot make ends all") {
  const JobPlace place;
  write_file(place / "file", "");
  const std::string reason = "file/c: cannot be made: Not a directory";
  const std::string error =
      refusal(place, "environment", "rank 0: error: " + reason, {"--set", "logging.directory=file"});
  CHECK(learned(error, 1, "rank 0 failed: " + reason));
}

// Catches: rank 1 that looks for an earlier run too, or goes on without rank 0.
TEST_CASE("an earlier run's folder is refused by rank 0 for all") {
  const JobPlace place;
  std::filesystem::create_directories(place / "kept/c");
  write_file(place / "kept/c/config.json", "{}");
  write_file(place / "kept/c/metrics.jsonl", "{\"event\":\"start\",\"name\":\"c\"}\n");
  const std::string error = refusal(place, "environment", "rank 0: error: kept/c exists",
                                    {"--set", "logging.directory=kept", "--set", "checkpoint.resume=never"});
  CHECK(learned(error, 1, "rank 0 failed: kept/c exists"));
}

TEST_CASE("transport none is refused for several ranks, with a cure") {
  const std::string launcher = GENERATE(from_range(launchers()));
  const JobPlace place;
  refusal(place, launcher, "parallel.transport is \"none\", but there are 2 ranks: start one, or choose \"auto\"",
          {"--set", "parallel.transport=none"});
}

TEST_CASE("groups that do not divide the ranks are refused, with the divisors' rule") {
  const JobPlace place;
  refusal(place, "environment", "parallel.shard_group_size is 3, must divide the number of ranks, 2",
          {"--set", "parallel.zero_stage=1", "--set", "parallel.shard_group_size=3"});
}

// Catches: a rank that waits for ever, that forgets which one is missing, or that takes the time from elsewhere.
TEST_CASE("a rank that waits alone gives up after DITHER_CONNECT_SECONDS and says for whom") {
  const int rank = GENERATE(0, 1);
  const JobPlace place;
  const auto begin = std::chrono::steady_clock::now();
  Job job(place, {"/usr/bin/env", "DITHER_RANK=" + std::to_string(rank), "DITHER_RANKS=2", "DITHER_CONNECT_SECONDS=1",
                  "DITHER_RENDEZVOUS=" + (place / "meet"), DITHER_BINARY_DIR "/dither", "train", "c.json"});
  const Outcome outcome = job.wait(kSoon);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  INFO(outcome.err);
  CHECK(outcome.status == 2);
  CHECK(seconds > 0.9);  // what is left is too short for another attempt
  CHECK(has(outcome.err, rank == 0 ? "rank 0: error: rank 1 of 2 did not come to rank 0 at "
                                   : "rank 1: error: rank 1 found no rank 0 within 1 s: "));
  CHECK(has(outcome.err, rank == 0 ? " within 1 s: start all 2 ranks at the same time" : "DITHER_RENDEZVOUS"));
  CHECK(!place.has_run_folder());
}

// Catches: a text of which the first digits are read, a time of nothing, a bound that nobody is told.
TEST_CASE("DITHER_CONNECT_SECONDS must be seconds") {
  const std::string text = GENERATE("soon", "1s", "0", "-5", "86401", "");
  const JobPlace place;
  Job job(place, {"/usr/bin/env", "DITHER_CONNECT_SECONDS=" + text, DITHER_BINARY_DIR "/dither", "train", "c.json"});
  const Outcome outcome = job.wait(kSoon);
  CHECK(outcome.status == 2);
  CHECK(outcome.err ==
        "error: the environment's DITHER_CONNECT_SECONDS is \"" + text + "\", needs an integer from 1 to 86400\n");
}

}  // namespace dither::test
