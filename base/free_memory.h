// How much main memory there is to be had. Linux promises more than it has and kills the process that believes it: so
// ask before a large allocation.
#pragma once

#include <cstdint>

namespace dither {

/// Bytes that can be had without swapping (MemAvailable of /proc/meminfo); -1 where the system does not say.
int64_t free_memory_bytes();

}  // namespace dither
