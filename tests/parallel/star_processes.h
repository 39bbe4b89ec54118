// Ranks as processes, for the tests of the control star: each a fork of the test, on the loopback interface.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "src/parallel/control.h"

namespace dither::test {

/// What a rank's process left.
struct Ended {
  int status = 0;      // of exit, or 128 + the signal
  std::string error;   // its stderr
  double seconds = 0;  // from the start of wait()
};

// ThreadSanitizer lets a process sleep a second before it ends; limits of time add that.
#if defined(__SANITIZE_THREAD__)
constexpr double kExitSeconds = 1;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
constexpr double kExitSeconds = 1;
#else
constexpr double kExitSeconds = 0;
#endif
#else
constexpr double kExitSeconds = 0;
#endif

/// A folder of this test alone.
class Folder {
 public:
  Folder();
  ~Folder();
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

/// Memory that processes forked later share with the test.
struct Shared {
  std::atomic<int> ready{0};  // ranks that came to a point which the test waits for
  std::atomic<int> signal{0};
  std::atomic<int> text_size{-1};
  char text[256] = {};
};

class StarProcesses {
 public:
  using Body = std::function<void(const RankEnvironment& environment, Shared& shared)>;

  StarProcesses();
  ~StarProcesses();  // kills those that are left
  StarProcesses(const StarProcesses&) = delete;
  StarProcesses& operator=(const StarProcesses&) = delete;

  Shared& shared() { return *shared_; }
  /// A process that runs `body` and ends with status 0; 2 and "rank R: caught: ..." on stderr where it throws Error; 3
  /// where it throws anything else. Returns its number, by which the functions below know it.
  int start(const RankEnvironment& environment, const Body& body);
  /// The same for all ranks, which meet through a file in `folder`: process r is rank r.
  void start_all(int ranks, const Folder& folder, const Body& body);

  int pid(int process) const { return processes_[static_cast<size_t>(process)].pid; }
  std::string name(int process) const;  // "rank 1 (host, pid 123)"
  void send(int process, int signal) const;
  /// Waits until `count` ranks have counted shared().ready up.
  void await_ready(int count);
  /// Waits for the process's end, and kills it after ten seconds.
  Ended wait(int process);

 private:
  struct Process {
    int pid;
    int rank;
    std::FILE* error;
  };
  std::vector<Process> processes_;
  Shared* shared_;
};

RankEnvironment local_rank(int rank, int ranks);
void sleep_seconds(double seconds);
/// Throws what StarProcesses reports as status 3.
void expect(bool good, const std::string& what);

}  // namespace dither::test
