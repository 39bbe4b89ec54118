// Forked ranks: see processes.h.
#include "tests/parallel/processes.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <exception>
#include <thread>
#include <vector>

namespace dither {

namespace {

constexpr size_t kLongest = 8000;  // bytes of complaints: one write to a pipe that nobody reads yet must not block

struct Rank {
  pid_t process;
  int complaints;  // the reading end
};

[[noreturn]] void run_child(int rank, const std::function<void(int, Complaints&)>& body, int seconds, int pipe) {
  // Signals end this process, without the parent's handlers, which would report a failed test from here.
  for (const int number : {SIGABRT, SIGSEGV, SIGFPE, SIGILL, SIGTERM, SIGINT}) std::signal(number, SIG_DFL);
  alarm(static_cast<unsigned>(seconds));
  Complaints complaints;
  try {
    body(rank, complaints);
  } catch (const std::exception& error) {
    complaints.expect(false, std::string("threw: ") + error.what());
  }
  const std::string text = complaints.text().substr(0, kLongest);
  const bool said = write(pipe, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  _exit(said ? 0 : 1);  // not the parent's destructors and handlers
}

std::string read_all(int file) {
  std::string text;
  char buffer[1024];
  for (ssize_t count = 0; (count = read(file, buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<size_t>(count));
  }
  close(file);
  return text;
}

/// The status in which each ended. A rank that a signal ended will be waited for by the others in vain: they are ended
/// a little later.
std::vector<int> wait_for(const std::vector<Rank>& ranks) {
  constexpr auto kPatience = std::chrono::seconds(3);
  std::vector<int> statuses(ranks.size(), 0);
  std::vector<bool> ended(ranks.size(), false);
  auto end_of_patience = std::chrono::steady_clock::time_point::max();
  for (size_t left = ranks.size(); left > 0; std::this_thread::sleep_for(std::chrono::milliseconds(1))) {
    for (size_t rank = 0; rank < ranks.size(); ++rank) {
      if (ended[rank]) continue;
      if (std::chrono::steady_clock::now() > end_of_patience) kill(ranks[rank].process, SIGKILL);
      const pid_t answer = waitpid(ranks[rank].process, &statuses[rank], WNOHANG);
      if (answer == 0) continue;
      if (answer < 0) statuses[rank] = W_EXITCODE(1, 0);  // lost
      ended[rank] = true;
      --left;
      if (WIFSIGNALED(statuses[rank])) {
        end_of_patience = std::min(end_of_patience, std::chrono::steady_clock::now() + kPatience);
      }
    }
  }
  return statuses;
}

}  // namespace

void Complaints::expect(bool condition, const std::string& what) {
  if (!condition) text_.append(what).append("\n");
}

std::string run_ranks(int ranks, const std::function<void(int, Complaints&)>& body, int seconds) {
  std::vector<Rank> started;
  std::string all;
  for (int rank = 0; rank < ranks; ++rank) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return "no pipe";
    const pid_t process = fork();
    if (process == 0) run_child(rank, body, seconds, ends[1]);
    close(ends[1]);
    if (process < 0) all += "no process for rank " + std::to_string(rank) + "\n";
    if (process < 0) close(ends[0]);
    if (process > 0) started.push_back({process, ends[0]});
  }
  const std::vector<int> statuses = wait_for(started);
  for (size_t rank = 0; rank < started.size(); ++rank) {
    const std::string text = read_all(started[rank].complaints);
    const int status = statuses[rank];
    const std::string who = "rank " + std::to_string(rank) + ": ";
    if (!text.empty()) all += who + text;
    if (WIFSIGNALED(status)) all += who + "killed by " + strsignal(WTERMSIG(status)) + "\n";
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0) all += who + "exit status not 0\n";
  }
  return all;
}

std::string unique_test_name() {
  static int made = 0;
  return "dither-test-" + std::to_string(getpid()) + "-" + std::to_string(made++);
}

}  // namespace dither
