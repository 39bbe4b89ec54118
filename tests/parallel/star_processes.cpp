// Forks, waits with a limit, and reads what the processes wrote.
#include "tests/parallel/star_processes.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <new>
#include <thread>

#include "base/error.h"
#include "tests/catch.h"

namespace dither::test {
namespace {

constexpr double kLimitSeconds = 10;  // a rank that takes longer will never end

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string content(std::FILE* file) {
  std::string text;
  std::rewind(file);
  char part[4096];
  for (size_t read = 0; (read = std::fread(part, 1, sizeof part, file)) > 0;) text.append(part, read);
  return text;
}

[[noreturn]] void run(const RankEnvironment& environment, const StarProcesses::Body& body, Shared& shared) {
  int status = 0;
  try {
    body(environment, shared);
  } catch (const Error& error) {
    std::fprintf(stderr, "rank %d: caught: %s\n", environment.rank, error.what());
    status = 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d: unexpected: %s\n", environment.rank, error.what());
    status = 3;
  }
  _exit(status);
}

}  // namespace

Folder::Folder() {
  std::string pattern = std::filesystem::temp_directory_path() / "dither_star_XXXXXX";
  REQUIRE(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

Folder::~Folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

StarProcesses::StarProcesses() {
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  shared_ = new (memory) Shared;
}

StarProcesses::~StarProcesses() {
  for (const Process& process : processes_) {
    if (process.pid > 0) {
      kill(process.pid, SIGKILL);  // ends a stopped process too
      waitpid(process.pid, nullptr, 0);
    }
    std::fclose(process.error);
  }
  munmap(shared_, sizeof(Shared));
}

int StarProcesses::start(const RankEnvironment& environment, const Body& body) {
  std::FILE* error = std::tmpfile();
  REQUIRE(error != nullptr);
  std::fflush(nullptr);  // what waits in this process's buffers must not be written twice
  const pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    if (dup2(fileno(error), STDERR_FILENO) < 0) _exit(127);
    run(environment, body, *shared_);
  }
  processes_.push_back({pid, environment.rank, error});
  return static_cast<int>(processes_.size()) - 1;
}

void StarProcesses::start_all(int ranks, const Folder& folder, const Body& body) {
  for (int rank = 0; rank < ranks; ++rank) {
    RankEnvironment environment = local_rank(rank, ranks);
    environment.rendezvous = folder / "meeting";
    start(environment, body);
  }
}

std::string StarProcesses::name(int process) const {
  char host[256] = {};
  REQUIRE(gethostname(host, sizeof host - 1) == 0);
  const Process& p = processes_[static_cast<size_t>(process)];
  return "rank " + std::to_string(p.rank) + " (" + host + ", pid " + std::to_string(p.pid) + ")";
}

void StarProcesses::send(int process, int signal) const { REQUIRE(kill(pid(process), signal) == 0); }

void StarProcesses::await_ready(int count) {
  const double end = now() + kLimitSeconds;
  while (shared_->ready.load() < count && now() < end) sleep_seconds(0.005);
  REQUIRE(shared_->ready.load() >= count);
}

Ended StarProcesses::wait(int process) {
  Process& p = processes_[static_cast<size_t>(process)];
  const double begin = now();
  int status = 0;
  pid_t answer = 0;
  while ((answer = waitpid(p.pid, &status, WNOHANG)) == 0 && now() < begin + kLimitSeconds) sleep_seconds(0.005);
  if (answer == 0) {
    kill(p.pid, SIGKILL);
    answer = waitpid(p.pid, &status, 0);
  }
  REQUIRE(answer == p.pid);
  p.pid = -1;
  const Ended ended{WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), content(p.error), now() - begin};
  INFO(ended.error);
  REQUIRE(ended.error.find("Sanitizer") == std::string::npos);  // a report of a process that then ends as it should
  return ended;
}

RankEnvironment local_rank(int rank, int ranks) {
  RankEnvironment environment;
  environment.rank = environment.local_rank = rank;
  environment.ranks = environment.local_ranks = ranks;
  environment.launcher = "environment";
  return environment;
}

void sleep_seconds(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

void expect(bool good, const std::string& what) {
  if (!good) throw std::logic_error(what);
}

}  // namespace dither::test
