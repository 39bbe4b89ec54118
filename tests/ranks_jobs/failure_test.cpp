// Jobs that break in the middle: a rank dies, hangs or throws. The others end soon, by themselves, with status 2 and
// the name of the rank to blame on stderr.
#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "tests/catch.h"
#include "tests/ranks_jobs/job.h"

namespace dither::test {

namespace {

constexpr double kDeadSeconds = 5;  // by which a dead rank has ended the job: DESIGN's promise

constexpr double kHeartbeatSeconds = 1;

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/// What run_ranks.sh says of a rank that ended with status 2.
std::string ended_by_itself(int rank, pid_t process) {
  return "run_ranks.sh: rank " + std::to_string(rank) + " (pid " + std::to_string(process) + ") ended with status 2";
}

}  // namespace

// Catches: a rank that waits for a dead one in a collective, an end without a name, another status, rank 0 whose death
// nobody watches.
TEST_CASE("a rank that is killed ends the others within five seconds, by its name and phase") {
  const int killed = GENERATE(0, 1, 2);
  const JobPlace place;
  Job job(place, "environment", 3);
  job.await_training();
  const pid_t process = job.process_of(killed);
  const auto begin = Clock::now();
  job.send_rank(killed, SIGKILL);
  const Outcome outcome = job.wait(60);
  const double seconds = seconds_since(begin);
  INFO(outcome.err);
  CHECK(seconds < kDeadSeconds);
  CHECK(outcome.status == 128 + SIGKILL);
  const std::string gone = name_of(killed, process) + " is gone while in ";
  for (int rank = 0; rank < 3; ++rank) {
    if (rank == killed) continue;
    // Rank 0 finds it; the others learn it from rank 0, or find that rank 0 is gone.
    const std::string origin = "rank " + std::to_string(rank) + ": error: ";
    CHECK((has(outcome.err, origin + gone) || has(outcome.err, origin + "ending because " + gone)));
    CHECK(has(outcome.err, ended_by_itself(rank, job.process_of(rank))));
  }
  CHECK(has(outcome.err, "(pid " + std::to_string(process) + ") was ended by SIGKILL"));
}

// mpirun ends the ranks too, when it sees the dead one: the name may come from it alone.
TEST_CASE("a rank that is killed under mpirun ends the job within five seconds") {
  if (launchers().size() == 1) return;  // no MPI here
  const int killed = GENERATE(0, 1);
  const JobPlace place;
  Job job(place, "mpirun", 2);
  job.await_training();
  const auto begin = Clock::now();
  job.send_rank(killed, SIGKILL);
  const Outcome outcome = job.wait(60);
  INFO(outcome.err);
  CHECK(seconds_since(begin) < kDeadSeconds);
  CHECK(outcome.status != 0);
  CHECK(job.is_gone(0, kDeadSeconds));
  CHECK(job.is_gone(1, kDeadSeconds));
  const bool by_dither = has(outcome.err, name_of(killed, job.process_of(killed)) + " is gone while in ");
  const bool by_mpirun = has(outcome.err, "process rank " + std::to_string(killed) + " ");
  CHECK((by_dither || by_mpirun));
}

// Catches: a watchdog that blames who waits instead of who stands still, one that waits for ever or not at all, rank 0
// that nobody watches, a rank that goes on when it wakes in a job that has ended.
TEST_CASE("a rank that is stopped ends the job after timeout_seconds, by its name and last phase") {
  const int stopped = GENERATE(1, 0);
  const JobPlace place;
  Job job(place, "environment", 2, {"--set", "parallel.timeout_seconds=5"});
  job.await_training();
  const std::string name = name_of(stopped, job.process_of(stopped));
  // The others know a phase from the last heartbeat, and one came before the first step.
  std::this_thread::sleep_for(std::chrono::duration<double>(1.5 * kHeartbeatSeconds));
  const auto begin = Clock::now();
  job.send_rank(stopped, SIGSTOP);
  job.await_error(ended_by_itself(1 - stopped, job.process_of(1 - stopped)), 60);
  const double seconds = seconds_since(begin);
  // So much earlier the last heartbeat may have been, and so much later others look. 3 s for a busy machine.
  CHECK(seconds > 5 - kHeartbeatSeconds);
  CHECK(seconds < 5 + kHeartbeatSeconds + 3);
  CHECK(!job.is_gone(stopped));
  job.send_rank(stopped, SIGCONT);
  const Outcome outcome = job.wait(60);
  INFO(outcome.err);
  CHECK(outcome.status == 2);
  CHECK(has(outcome.err, name + " has made no progress for 5 s; its last phase: step "));
  CHECK(has(outcome.err, "; it gives no sign of life"));
  CHECK(has(outcome.err, ended_by_itself(stopped, job.process_of(stopped))));
}

// Catches: a loader's error that stays in its thread, an error on one rank that the others wait out in a collective.
TEST_CASE("a token out of range that one rank meets in mid-run ends all, by the name of the file") {
  const std::string launcher = GENERATE(from_range(launchers()));
  const JobPlace place;
  place.copy_corpus();
  place.prepare_rank(1, "cd other");
  Job job(place, launcher, 2, {"--set", "checkpoint.every_steps=0"});  // they share no folder
  job.await_training();
  const std::string path = place / "other/data/train_000000.bin";
  const size_t tokens = (read_whole(path).size() - 1024) / 2;
  const auto begin = Clock::now();
  {
    std::fstream shard(path, std::ios::binary | std::ios::in | std::ios::out);  // in place: the job has mapped it
    shard.seekp(1024);
    const std::string beyond(2 * tokens, '\x7f');
    shard.write(beyond.data(), static_cast<std::streamsize>(beyond.size()));
  }
  const Outcome outcome = job.wait(60);
  INFO(launcher << "\n" << outcome.err);
  CHECK(seconds_since(begin) < kDeadSeconds);
  CHECK(outcome.status == 2);
  const std::string reason = "data/train_000000.bin: token 32639 at position ";
  CHECK(has(outcome.err, "rank 0: error: ending because rank 1 failed: " + reason));
  // mpirun may end rank 1 when rank 0 has ended, before it has said the same.
  CHECK((has(outcome.err, "rank 1: error: " + reason) || launcher == "mpirun"));
}

}  // namespace dither::test
