// This process among the ranks of its job, for as long as a command runs: what the launcher said, MPI where it is used,
// and the control connections.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "kernels/backend.h"
#include "src/config/config.h"
#include "src/parallel/communicator.h"
#include "src/parallel/control.h"
#include "src/parallel/mpi_session.h"
#include "src/parallel/rank_environment.h"

namespace dither {

class Ranks {
 public:
  /// Joins the ranks that the environment speaks of. Throws Error when some do not come.
  Ranks();

  int rank() const { return environment_.rank; }
  int size() const { return environment_.ranks; }
  /// Whether this is the rank that prints and writes files.
  bool speaks() const { return rank() == 0; }
  const RankEnvironment& environment() const { return environment_; }
  Control& control() { return *control_; }

  /// Does body(); what it throws is told to the other ranks, which end too, and thrown on.
  void run(const std::function<void()>& body);

  /// Tells the others that this rank ends because of `message`. For where it has to be told before run() is reached.
  void fail(const std::string& message);

  /// The number of the GPU that this rank uses: parallel.device_index, else its place on the node, round again where
  /// there are fewer. Throws Error where there is no such GPU.
  int gpu(const ParallelConfig& config) const;
  /// The communicator of all ranks on this backend. All ranks call it.
  std::unique_ptr<Communicator> communicator(const ParallelConfig& config, Backend& backend, bool cuda);

 private:
  const RankEnvironment environment_;
  std::optional<MpiSession> mpi_;
  std::optional<Control> control_;
};

}  // namespace dither
