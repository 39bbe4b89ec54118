// Starting, killing and awaiting of the ranks.
#include "tests/torture/job.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "base/error.h"

namespace dither::torture {

namespace {

constexpr const char* kProgram = "/proc/self/exe";
constexpr int kCannotStart = 127;

[[noreturn]] void fail(const char* call) { throw Error(std::string(call) + ": " + std::strerror(errno)); }

/// In the child, between fork and exec; whatever fails here ends it.
[[noreturn]] void become(const JobOptions& options, int rank, const std::string& meeting) {
  const auto set = [](const char* name, const std::string& value) { return setenv(name, value.c_str(), 1) == 0; };
  const std::string number = std::to_string(rank), count = std::to_string(options.ranks);
  const int log = open(options.log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666);
  const bool ready = prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && log >= 0 && dup2(log, STDOUT_FILENO) >= 0 &&
                     dup2(log, STDERR_FILENO) >= 0 && set("OMP_WAIT_POLICY", "passive");
  const bool placed = options.ranks == 1 ||
                      (set("DITHER_RANK", number) && set("DITHER_LOCAL_RANK", number) && set("DITHER_RANKS", count) &&
                       set("DITHER_LOCAL_RANKS", count) && set("DITHER_RENDEZVOUS", meeting));
  if (ready && placed) {
    execl(kProgram, "torture_checkpoints", "--child", options.config.c_str(), options.real.c_str(),
          options.image.c_str(), static_cast<char*>(nullptr));
  }
  _exit(kCannotStart);
}

}  // namespace

Job::Job(const JobOptions& options) : ranks_(static_cast<size_t>(options.ranks)), log_(options.log) {
  static int count = 0;
  meeting_ = options.log + ".meeting-" + std::to_string(count++);
  for (int rank = 0; rank < options.ranks; ++rank) {
    Rank& started = ranks_[static_cast<size_t>(rank)];
    started.process = fork();
    if (started.process == 0) become(options, rank, meeting_);
    if (started.process < 0) fail("fork");
    started.running = true;
  }
}

Job::~Job() {
  for (size_t rank = 0; rank < ranks_.size(); ++rank) {
    if (!ranks_[rank].running) continue;
    ::kill(ranks_[rank].process, SIGKILL);  // nobody is left to be told of a failure
    waitpid(ranks_[rank].process, nullptr, 0);
  }
  std::error_code ignored;
  std::filesystem::remove(meeting_, ignored);
}

bool Job::ended() {
  bool all = true;
  for (size_t rank = 0; rank < ranks_.size(); ++rank) {
    if (!ranks_[rank].running) continue;
    int status = 0;
    const pid_t found = waitpid(ranks_[rank].process, &status, WNOHANG);
    if (found < 0) fail("waitpid");
    all = all && found != 0;
    if (found == 0) continue;
    ranks_[rank].running = false;
    if (status != 0) {
      throw Error("rank " + std::to_string(rank) + " ended with wait status " + std::to_string(status) + ": see " +
                  log_);
    }
  }
  return all;
}

void Job::kill_all() {
  for (const Rank& rank : ranks_) {
    if (rank.running && ::kill(rank.process, SIGKILL) != 0) fail("kill");
  }
  for (Rank& rank : ranks_) {
    if (rank.running && waitpid(rank.process, nullptr, 0) < 0) fail("waitpid");
    rank.running = false;
  }
}

void Job::kill_one(int rank, double seconds) {
  using Clock = std::chrono::steady_clock;
  Rank& victim = ranks_[static_cast<size_t>(rank)];
  if (victim.running) {
    if (::kill(victim.process, SIGKILL) != 0) fail("kill");
    if (waitpid(victim.process, nullptr, 0) < 0) fail("waitpid");
    victim.running = false;
  }
  const Clock::time_point end =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  for (size_t other = 0; other < ranks_.size(); ++other) {
    while (ranks_[other].running) {
      const pid_t found = waitpid(ranks_[other].process, nullptr, WNOHANG);
      if (found < 0) fail("waitpid");
      ranks_[other].running = found == 0;
      if (found != 0) break;
      if (Clock::now() > end) {
        throw Error("rank " + std::to_string(other) + " still runs " + std::to_string(seconds) + " s after rank " +
                    std::to_string(rank) + " was killed: see " + log_);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
}

}  // namespace dither::torture
