// How many threads the CPU backend uses where the config leaves it open, and whether the system gives them.
#pragma once

#include <string>

namespace dither {

struct ThreadChoice {
  int threads = 1;
  std::string limit;  // what keeps it below all cores, "cpu.max of /sys/fs/cgroup"; "" : nothing
};

/// The least of: the cores that this process may run on (affinity, cpuset); what control groups allow of their time
/// (base/free_memory.h), rounded up; OMP_NUM_THREADS and OMP_THREAD_LIMIT. Of `local_ranks` ranks on this node each
/// gets its share of that time, and of the cores where none is bound to some of them. `root` as of cpu_quota().
ThreadChoice usable_threads(int local_ranks = 1, const std::string& root = "");

/// Throws Error unless the system gives a team of so many threads, with stacks as large as the kernels need. OpenMP
/// would end the process with words of its own, or a stack would overflow. Costs some 20 us a thread, once.
void demand_threads(int threads);

}  // namespace dither
