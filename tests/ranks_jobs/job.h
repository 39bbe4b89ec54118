// What the tests of whole jobs share: `dither train` on several ranks, started as a user starts it, by
// scripts/run_ranks.sh or by mpirun, and watched from outside.
//
// Each rank goes through a script of the test, which notes the rank's process and lets one rank have another folder or
// other arguments than the rest.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "tests/commands/program.h"  // Workplace, Outcome

namespace dither::test {

/// "environment" (scripts/run_ranks.sh), and "mpirun" where MPI was found.
std::vector<std::string> launchers();

/// A folder with a corpus and c.json: a tiny Llama that trains for minutes, two micro-batches a step, one thread a
/// rank.
class JobPlace : public Workplace {
 public:
  JobPlace();
  /// Shell commands that rank `rank` does before it becomes the program: `cd other`, `set -- "$@" --set key=value`.
  void prepare_rank(int rank, const std::string& commands) const;
  /// A copy of the folder's corpus as other/data.
  void copy_corpus() const;
  std::string metrics() const { return *this / "runs/c/metrics.jsonl"; }
  std::string weights_path() const { return *this / "runs/c/weights.safetensors"; }
  bool has_run_folder() const;
};

/// Ranks that run; the destructor kills those that are left.
class Job {
 public:
  /// `launcher` starts `ranks` of them, which train with c.json and these arguments more.
  Job(const JobPlace& place, const std::string& launcher, int ranks, const std::vector<std::string>& arguments = {});
  /// Any command in the folder, in a session of its own.
  Job(const JobPlace& place, const std::vector<std::string>& command);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  /// Returns when some steps are done.
  void await_training() const;
  /// Returns when stderr has the text; fails the test if that takes longer.
  void await_error(const std::string& text, double seconds) const;
  std::string errors() const;

  pid_t process_of(int rank) const;
  void send_rank(int rank, int signal) const;
  void send_launcher(int signal) const;
  void send_terminal(int signal) const;  // as a terminal's Ctrl-C: to the launcher and all that it did not set apart

  /// The launcher's end; fails the test if that takes longer.
  Outcome wait(double seconds);
  /// Whether the rank's process has ended. mpirun may end a moment before its ranks.
  bool is_gone(int rank, double within_seconds = 0) const;

 private:
  void start(const std::vector<std::string>& command);
  const JobPlace& place_;
  pid_t launcher_ = -1;
};

/// "rank 1 (host, pid 123)": how ranks call each other.
std::string name_of(int rank, pid_t process);

/// Names, types, shapes and bytes of the tensors in a safetensors file; not its metadata.
std::string tensors_of(const std::string& path);

}  // namespace dither::test
