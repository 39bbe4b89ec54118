// Ranks that communicate by NCCL, or rather by its stand-in: processes with a CUDA backend each, on the host.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "kernels/backend.h"
#include "src/parallel/nccl_communicator.h"
#include "tests/parallel/processes.h"

namespace dither {

struct NcclRank {
  Control& control;
  const RankEnvironment& environment;
  Backend& backend;
  Communicator& world;
  Complaints& complaints;

  int rank() const { return world.rank(); }
  int size() const { return world.size(); }
  Stream stream() const { return backend.stream(); }
  /// Another communicator of all ranks, which may be broken.
  std::unique_ptr<Communicator> another() const { return make_nccl_communicator(control, environment); }
  /// The message of the Error that `call` throws; "" if it throws none.
  std::string error_of(const std::function<void()>& call) const;
  void expect(bool condition, const std::string& what) const;
};

/// What the ranks complain of; "" if all is well.
std::string run_nccl(int ranks, const std::function<void(const NcclRank&)>& body);

}  // namespace dither
