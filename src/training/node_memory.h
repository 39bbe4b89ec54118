// Memory that the ranks of a node share: what each of them finds free is there once, not once for each.
#pragma once

#include <string>
#include <vector>

#include "base/free_memory.h"
#include "kernels/backend.h"
#include "src/config/config.h"
#include "src/parallel/control.h"

namespace dither {

/// Of every rank "", or what its node (or the GPU that it shares) lacks for `needed_bytes` more on each of its ranks:
/// "2 ranks of node7 need 300 MiB, 200 MiB are free (MemAvailable)". Nothing may be allocated between the moment `free`
/// was found and this call. All ranks call it.
std::vector<std::string> memory_lacks(Control& control, int64_t needed_bytes, const FreeMemory& free,
                                      const std::string& device = "");

/// Throws Error, on every rank, where the memory plans of ranks that share memory do not fit into it together. All
/// ranks call it, before their engines allocate.
void demand_fitting_memory(Control& control, const Config& config, const Backend& backend);

}  // namespace dither
