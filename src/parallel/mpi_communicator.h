// The transport "mpi": CPU ranks on any number of nodes.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "src/parallel/communicator.h"

namespace dither {

/// A communicator of all ranks of MPI, which a MpiSession has begun and which outlives it. host_memory: the backend's
/// memory is the host's (the CPU's); else data goes through staging memory. All ranks call it. Throws Error where MPI
/// fails, or the program was built without it.
std::unique_ptr<Communicator> make_mpi_communicator(Backend& backend, bool host_memory);

}  // namespace dither
