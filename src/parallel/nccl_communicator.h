// The transport of GPUs: NCCL. Whether a program has it is decided when it is built (cmake/nccl.cmake).
#pragma once

#include <memory>

#include "src/parallel/communicator.h"
#include "src/parallel/control.h"
#include "src/parallel/rank_environment.h"

namespace dither {

bool built_with_nccl();

/// The communicator of all ranks on this process's CUDA device, which its backend has chosen. All ranks call it; they
/// meet through `control`. Throws Error where NCCL cannot connect them, or the program was built without it.
///
/// Two ranks must not share a device. What Backend::repeat() has recorded of it must be gone before it: NCCL waits for
/// that, so destroy the backend first. Collectives are queued on their stream; an error of one that has been queued
/// surfaces at a later call, of any method. After an error the communicator is good for nothing but destruction.
std::unique_ptr<Communicator> make_nccl_communicator(Control& control, const RankEnvironment& environment);

}  // namespace dither
