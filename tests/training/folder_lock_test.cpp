// The lock on a folder, between processes: this one, forked ones, and programs that were started.
#include "src/training/folder_lock.h"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>

#include "base/error.h"
#include "src/training/signals.h"
#include "tests/catch.h"
#include "tests/training/tiny_run.h"  // TemporaryFolder

namespace dither {

namespace {

namespace fs = std::filesystem;

FolderLockOptions options(double patience_seconds = 0, bool inherited = false) {
  const auto refusal = [](const std::string& holder) { return holder + " trains there\n       cures: wait"; };
  return {.refusal = refusal, .patience_seconds = patience_seconds, .inherited = inherited};
}

/// "" if the folder could be locked (and is free again), else what the refusal said.
std::string refusal_of(const std::string& folder, const FolderLockOptions& how = options()) {
  try {
    const FolderLock lock(folder, how);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

std::string signature(pid_t process) {
  std::array<char, 300> host{};
  REQUIRE(gethostname(host.data(), host.size()) == 0);
  return "pid " + std::to_string(process) + " on " + host.data();
}

std::string first_line(const std::string& path) {
  std::string line;
  std::getline(std::ifstream(path) >> std::ws, line);
  return line;
}

/// A process that holds the folder until it is killed.
class Holder {
 public:
  explicit Holder(const std::string& folder) {
    std::array<int, 2> ready{};
    REQUIRE(pipe(ready.data()) == 0);
    process = fork();
    REQUIRE(process >= 0);
    if (process == 0) {
      try {
        const FolderLock lock(folder, options());
        if (write(ready[1], "r", 1) == 1) pause();
      } catch (const Error&) {
      }  // the parent reads nothing, and fails
      _exit(1);
    }
    close(ready[1]);
    char byte = 0;
    REQUIRE(read(ready[0], &byte, 1) == 1);
    close(ready[0]);
  }
  ~Holder() { end(); }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;

  void end() {
    if (process <= 0) return;
    kill(process, SIGKILL);
    waitpid(process, nullptr, 0);
    process = -1;
  }

  pid_t process = -1;
};

/// Starts a program that sleeps; returns when it runs, with the descriptors that it inherits.
pid_t start_program() {
  std::array<const char*, 3> words = {"sleep", "60", nullptr};
  pid_t process = -1;
  REQUIRE(posix_spawnp(&process, "sleep", nullptr, nullptr, const_cast<char**>(words.data()), environ) == 0);
  return process;
}

}  // namespace

// Catches: a lock that lies in the file's existence and outlives a kill, a refusal that names nobody or this process, a
// holder's name left behind by the one before.
TEST_CASE("a folder that another process holds is refused with its pid and host, and is free once that was killed") {
  const TemporaryFolder folder;
  Holder holder(folder.path());
  CHECK(refusal_of(folder.path()) ==
        folder.path() + " is in use: " + signature(holder.process) + " trains there\n       cures: wait");
  holder.end();
  const FolderLock lock(folder.path(), options());
  CHECK(first_line(folder.path() + "/lock") == signature(getpid()));
  CHECK(refusal_of(folder.path()) ==
        folder.path() + " is in use: " + signature(getpid()) + " trains there\n       cures: wait");
}

// Catches: a file that is removed when the lock is given back (two could then hold two files of one name), a name that
// stays in it.
TEST_CASE("a lock that was given back leaves an empty file, and the folder free") {
  const TemporaryFolder folder;
  for (int time = 0; time < 2; ++time) CHECK(refusal_of(folder.path()).empty());
  REQUIRE(fs::is_regular_file(folder.path() + "/lock"));
  CHECK(fs::file_size(folder.path() + "/lock") == 0);
}

// Catches: patience that is not there or does not end, a stop that waits for its end.
TEST_CASE("a patient one waits for the folder until it is free, its patience ends, or a signal comes") {
  const TemporaryFolder folder;
  const StopSignals signals;
  {
    Holder holder(folder.path());
    std::thread later([&holder] {
      std::this_thread::sleep_for(std::chrono::milliseconds(150));
      holder.end();
    });
    CHECK(refusal_of(folder.path(), options(60)).empty());
    later.join();
  }
  const Holder holder(folder.path());
  CHECK_FALSE(refusal_of(folder.path(), options(0.1)).empty());
  raise(SIGTERM);
  const auto begin = std::chrono::steady_clock::now();
  CHECK_FALSE(refusal_of(folder.path(), options(60)).empty());
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(30));
}

// Catches: a descriptor that every program gets, so that a stray helper keeps a folder locked; one that none gets, so
// that a second compare meets the runs of a killed one.
TEST_CASE("programs that the holder starts hold the folder too where that was asked for, else not") {
  for (const bool inherited : {false, true}) {
    const TemporaryFolder folder;
    std::optional<FolderLock> lock;
    lock.emplace(folder.path(), options(0, inherited));
    const pid_t program = start_program();
    lock.reset();
    CHECK(refusal_of(folder.path()).empty() == !inherited);
    kill(program, SIGKILL);
    REQUIRE(waitpid(program, nullptr, 0) == program);
    CHECK(refusal_of(folder.path()).empty());
  }
}

// Catches: a lock on a file that was deleted meanwhile, beside which the next one makes and locks a new file.
TEST_CASE("whoever waited for a file that was deleted locks the one that has its name") {
  const TemporaryFolder folder;
  const StopSignals none_yet;
  std::optional<FolderLock> first;
  first.emplace(folder.path(), options());
  std::optional<FolderLock> second;
  std::thread waiting([&] { second.emplace(folder.path(), options(60)); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // it has the file open
  fs::remove(folder.path() + "/lock");
  first.reset();
  waiting.join();
  REQUIRE(second.has_value());
  CHECK_FALSE(refusal_of(folder.path()).empty());
}

TEST_CASE("a lock needs its folder, and a file that can be written") {
  const TemporaryFolder folder;
  const std::string gone = folder.path() + "/gone";
  CHECK(refusal_of(gone) == gone + "/lock cannot be opened for writing: No such file or directory");
  fs::create_directory(folder.path() + "/lock");
  CHECK(refusal_of(folder.path()) == folder.path() + "/lock cannot be opened for writing: Is a directory");
}

}  // namespace dither
