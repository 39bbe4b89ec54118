// Which transport a run takes, and taking it.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "src/config/config.h"  // Transport
#include "src/parallel/communicator.h"
#include "src/parallel/control.h"
#include "src/parallel/rank_environment.h"

namespace dither {

/// What `wanted` comes to; never `automatic`. A world of one has nothing to send and takes `none`, unless NCCL is asked
/// for by name. Else `automatic` is NCCL on CUDA; on the CPU MPI where its launcher started the ranks and the program
/// was built with it, else shared memory where all ranks are on one node, as far as the launcher says. Throws Error,
/// with cures, where there is no way or not the one asked for.
Transport chosen_transport(Transport wanted, const RankEnvironment& environment, bool cuda, bool with_mpi);

/// The communicator of all ranks. cuda: the backend's memory is a GPU's. Under Transport::mpi a MpiSession lives. All
/// ranks call it, with the same `wanted`.
std::unique_ptr<Communicator> make_communicator(Transport wanted, const RankEnvironment& environment, Control& control,
                                                Backend& backend, bool cuda);

}  // namespace dither
