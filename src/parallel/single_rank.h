// The transport of a world of one: nothing to send, only results to be moved to their place.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "src/parallel/communicator.h"

namespace dither {

std::unique_ptr<Communicator> make_single_rank(Backend& backend);

/// to <- from, both in the backend's memory: what Communicator::do_copy is where a Backend is at hand. An even number
/// of bytes, as every type has.
void copy_bytes(Backend& backend, void* to, const void* from, int64_t bytes, Stream stream);

}  // namespace dither
