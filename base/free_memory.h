// How much main memory there is to be had, and how many processors' time. Linux promises more than it has and kills the
// process that believes it: so ask before a large allocation.
#pragma once

#include <cstdint>
#include <string>

namespace dither {

/// The limit that each process has for itself.
inline constexpr const char* kAddressSpaceLimit = "ulimit -v";

/// Memory that this process can have without swapping, and what says so.
struct FreeMemory {
  int64_t bytes = -1;  // -1: the system does not say
  std::string limit;   // "MemAvailable", "memory.max of /sys/fs/cgroup/job7", kAddressSpaceLimit
};

/// The least of: MemAvailable; what each control group around this process still allows (memory.max and memory.high,
/// or memory.limit_in_bytes of version 1), where its file cache counts as free, as it does in MemAvailable; ulimit -v.
/// `root` stands before every path that is read (tests).
FreeMemory free_memory(const std::string& root = "");

int64_t free_memory_bytes();

/// Processors' worth of time that control groups allow (cpu.max; cpu.cfs_quota_us of version 1).
struct CpuQuota {
  double cores = 0;   // 0: all
  std::string limit;  // "cpu.max of /sys/fs/cgroup/job7"
};
CpuQuota cpu_quota(const std::string& root = "");

/// Why the system may refuse memory or threads while there is memory: the limits that are (nearly) reached, or all that
/// could be, each with its cure. `root` as above; ulimits are this process's own.
std::string refusal_causes(const std::string& root = "");

}  // namespace dither
