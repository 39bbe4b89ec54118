// The transport "host": shared memory between the processes of one node, without MPI.
#pragma once

#include <memory>
#include <string>

#include "kernels/backend.h"
#include "src/parallel/communicator.h"

namespace dither {

constexpr double kAttachSeconds = 60;  // ranks that agree on a name begin within moments of each other

/// A communicator of `size` > 1 processes. `name` as SharedMemory wants it (shared_memory.h). host_memory: the
/// backend's memory is the host's (the CPU's); else data goes through staging memory, which lets several ranks share a
/// GPU. Throws Error where the ranks do not find each other within `seconds`, or /dev/shm is full.
std::unique_ptr<Communicator> make_shared_memory_communicator(const std::string& name, int rank, int size,
                                                              Backend& backend, bool host_memory,
                                                              double seconds = kAttachSeconds);

}  // namespace dither
