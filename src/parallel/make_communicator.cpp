// The choice of a transport: see make_communicator.h.
#include "src/parallel/make_communicator.h"

#include <fmt/format.h>
#include <unistd.h>

#include <random>

#include "base/error.h"
#include "src/parallel/mpi_communicator.h"
#include "src/parallel/mpi_session.h"
#include "src/parallel/nccl_communicator.h"
#include "src/parallel/shared_memory_communicator.h"
#include "src/parallel/single_rank.h"

namespace dither {

namespace {

constexpr const char* kMpiPackages = "install libopenmpi-dev and openmpi-bin and build again with -DDITHER_MPI=ON";

bool one_node(const RankEnvironment& environment) {
  return environment.local_ranks == 0 || environment.local_ranks == environment.ranks;
}

[[noreturn]] void no_mpi(const RankEnvironment& environment, bool with_mpi, const std::string& wish) {
  const std::string cure = with_mpi ? fmt::format("the launcher ({}) is not one of MPI: start with mpirun",
                                                  environment.launcher.empty() ? "none" : environment.launcher)
                                    : fmt::format("this program was built without MPI: {}", kMpiPackages);
  throw Error(fmt::format("{}, but {}", wish, cure));
}

/// A name that no other run on this node has; rank 0's counts.
std::string unique_name() {
  std::random_device random;
  return fmt::format("dither-{}-{:08x}{:08x}", getpid(), random(), random());
}

std::unique_ptr<Communicator> checked_mpi(const Control& control, Backend& backend, bool host_memory) {
  auto made = make_mpi_communicator(backend, host_memory);
  if (made->rank() != control.rank() || made->size() != control.size()) {
    throw Error(
        fmt::format("MPI calls this process rank {} of {}, its environment rank {} of {}: mpirun is of another MPI "
                    "than the program "
                    "({}); use that one's mpirun, or parallel.transport \"host\"",
                    made->rank(), made->size(), control.rank(), control.size(), made->description()));
  }
  return made;
}

}  // namespace

Transport chosen_transport(Transport wanted, const RankEnvironment& environment, bool cuda, bool with_mpi) {
  const int ranks = environment.ranks;
  if (wanted == Transport::nccl) {
    if (!cuda)
      throw Error("parallel.transport is \"nccl\", which needs device \"cuda\"; the CPU's are \"mpi\", \"host\"");
    return wanted;
  }
  if (ranks == 1) return Transport::none;
  const std::string several = fmt::format("there are {} ranks", ranks);
  if (wanted == Transport::none) {
    throw Error(fmt::format("parallel.transport is \"none\", but {}: start one, or choose \"auto\"", several));
  }
  const bool mpi = environment.mpi && with_mpi;
  if (wanted == Transport::mpi) {
    if (!mpi) no_mpi(environment, with_mpi, "parallel.transport is \"mpi\"");
    return wanted;
  }
  if (wanted == Transport::host) {
    if (one_node(environment)) return wanted;
    throw Error(fmt::format(
        "parallel.transport is \"host\", but of {} ranks only {} are on this node: choose \"mpi\", or \"nccl\" on GPUs",
        ranks, environment.local_ranks));
  }
  if (cuda) return Transport::nccl;
  if (mpi) return Transport::mpi;
  if (one_node(environment)) return Transport::host;
  no_mpi(environment, with_mpi,
         fmt::format("{}, {} of them on this node: CPU ranks on several nodes need MPI", several,
                     environment.local_ranks));
}

std::unique_ptr<Communicator> make_communicator(Transport wanted, const RankEnvironment& environment, Control& control,
                                                Backend& backend, bool cuda) {
  switch (chosen_transport(wanted, environment, cuda, built_with_mpi())) {
    case Transport::nccl:
      return make_nccl_communicator(control, environment);
    case Transport::mpi:
      return checked_mpi(control, backend, !cuda);
    case Transport::host: {
      const std::string name = control.broadcast(unique_name());
      return make_shared_memory_communicator(name, control.rank(), control.size(), backend, !cuda);
    }
    default:
      return make_single_rank(backend);
  }
}

}  // namespace dither
