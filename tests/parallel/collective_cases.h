// Every collective against a plain loop over what all ranks hold, for any transport.
#pragma once

#include "kernels/backend.h"
#include "src/parallel/communicator.h"
#include "tests/parallel/processes.h"

namespace dither {

/// All collectives x types x counts up to `most`, in place or not, on memory of the backend. All ranks call it.
void check_collectives(Communicator& communicator, Backend& backend, Complaints& complaints, int64_t most = 1 << 20);

/// Groups of uneven keys and sizes, used in turn with the communicator that they came from.
void check_split(Communicator& communicator, Backend& backend, Complaints& complaints);

}  // namespace dither
