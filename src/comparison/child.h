// A training run as a child process: its own program again, with one config file, output in a log file.
//
// A child never outlives its parent for long: the kernel sends it SIGTERM when the parent ends, however that happens,
// and `dither train` then ends after the step at hand.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace dither {

class Child {
 public:
  /// Starts this very program (even if its file has been replaced since) with `arguments`, its output and errors in
  /// `log_path`, written anew, and no input. Throws Error if there is no process or no log to be had; a program that
  /// cannot be run says so in the log.
  Child(const std::vector<std::string>& arguments, const std::string& log_path);
  ~Child();  // a child that still runs is asked to end, and waited for
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// Whether it has ended; never waits. Once true, `failure()` holds.
  bool ended();
  /// "" for exit status 0; else "exit status 2" or "killed by signal 9 (Killed)".
  const std::string& failure() const { return failure_; }
  /// Asks it to end after the step at hand.
  void terminate() const;

 private:
  pid_t process_ = -1;
  std::string failure_;
};

}  // namespace dither
