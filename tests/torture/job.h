// The ranks of one training run as child processes: this program again, in its child mode.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace dither::torture {

struct JobOptions {
  std::string config;  // path of the config file
  std::string real;    // } of a forgetful disk; "" : the disk itself
  std::string image;   // }
  std::string log;     // what the ranks say is appended
  int ranks = 1;
};

class Job {
 public:
  explicit Job(const JobOptions& options);
  /// Kills what is left.
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  /// Whether all ranks have ended. Throws Error if one has failed.
  bool ended();
  void kill_all();
  /// The others must end by themselves; throws Error, naming one, if that takes longer.
  void kill_one(int rank, double seconds);

 private:
  struct Rank {
    pid_t process = -1;
    bool running = false;
  };

  std::vector<Rank> ranks_;
  const std::string log_;
  std::string meeting_;  // the file through which ranks find each other
};

/// The child mode: what such a process does. Returns its exit status.
int run_child(const std::string& config, const std::string& real, const std::string& image);

}  // namespace dither::torture
