#include "src/comparison/child.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/error.h"

namespace dither {

namespace {

constexpr const char* kThisProgram = "/proc/self/exe";

// Spins of an OpenMP thread that waits, before it leaves its core to others: several runs share the cores, and threads
// that spin for milliseconds hold up the ones they wait for. Alone on its cores such a run is 1 to 2 % slower.
constexpr const char* kSpinCount = "GOMP_SPINCOUNT=2000";

/// The environment of children: ours, and short waiting unless the user has said how to wait.
std::vector<char*> child_environment() {
  std::vector<char*> variables;
  bool said = false;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    variables.push_back(*variable);
    said |= std::strncmp(*variable, "GOMP_SPINCOUNT=", 15) == 0 || std::strncmp(*variable, "OMP_WAIT_POLICY=", 16) == 0;
  }
  if (!said) variables.push_back(const_cast<char*>(kSpinCount));
  variables.push_back(nullptr);
  return variables;
}

/// In the child, between fork and exec: system calls alone, since other threads of the parent may hold locks.
[[noreturn]] void become(char* const* words, char* const* environment, int log, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(127);  // it ended before the line above
  const int nothing = open("/dev/null", O_RDONLY);
  if (nothing >= 0) dup2(nothing, STDIN_FILENO);
  if (dup2(log, STDOUT_FILENO) >= 0 && dup2(log, STDERR_FILENO) >= 0) execve(kThisProgram, words, environment);
  constexpr char kComplaint[] = "error: the program cannot be started\n";
  (void)!write(STDERR_FILENO, kComplaint, sizeof kComplaint - 1);
  _exit(127);
}

}  // namespace

Child::Child(const std::vector<std::string>& arguments, const std::string& log_path) {
  std::vector<char*> words = {const_cast<char*>("dither")};
  for (const std::string& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);
  const std::vector<char*> environment = child_environment();
  const int log = open(log_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666);
  if (log < 0) throw Error(log_path + " cannot be written: " + std::strerror(errno));
  const pid_t parent = getpid();
  process_ = fork();
  if (process_ == 0) become(words.data(), environment.data(), log, parent);
  const int failed = process_ < 0 ? errno : 0;
  close(log);
  if (failed != 0) throw Error(std::string("no process can be made for a run: ") + std::strerror(failed));
}

Child::~Child() {
  if (process_ < 0) return;
  terminate();
  waitpid(process_, nullptr, 0);
}

bool Child::ended() {
  if (process_ < 0) return true;
  int status = 0;
  const pid_t answer = waitpid(process_, &status, WNOHANG);
  if (answer == 0 || (answer < 0 && errno == EINTR)) return false;
  process_ = -1;
  if (answer < 0) {
    failure_ = std::string("lost: ") + std::strerror(errno);
  } else if (WIFSIGNALED(status)) {
    failure_ = "killed by signal " + std::to_string(WTERMSIG(status)) + " (" + strsignal(WTERMSIG(status)) + ")";
  } else if (WEXITSTATUS(status) != 0) {
    failure_ = "exit status " + std::to_string(WEXITSTATUS(status));
  }
  return true;
}

void Child::terminate() const {
  if (process_ >= 0) kill(process_, SIGTERM);
}

}  // namespace dither
