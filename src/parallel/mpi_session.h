// MPI for as long as a process uses it: begun once, by the main thread, before anything that could ask for it, and only
// under a launcher of MPI (RankEnvironment::mpi).
#pragma once

#include <string>

namespace dither {

bool built_with_mpi();

class MpiSession {
 public:
  /// MPI_Init_thread(MPI_THREAD_FUNNELED): other threads may run, the one that called this calls MPI. Throws Error
  /// where MPI grants less, or the program was built without MPI.
  MpiSession();
  /// MPI_Finalize, which waits for all ranks; so not after abandon(), nor while an exception is on its way: then others
  /// may wait elsewhere or be gone, and the launcher ends those that are left.
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  void abandon() { abandoned_ = true; }

  int rank() const { return rank_; }
  int size() const { return size_; }
  int local_rank() const { return local_rank_; }  // among the ranks of this node
  int local_size() const { return local_size_; }

  /// Rank 0's text. All ranks call it.
  std::string broadcast(const std::string& of_rank_0);

 private:
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1;
  int exceptions_ = 0;  // on their way when the session began
  bool abandoned_ = false;
};

/// Throws Error with the operation's name and MPI's words unless `status` is MPI_SUCCESS.
void check_mpi(int status, const char* operation);

}  // namespace dither
