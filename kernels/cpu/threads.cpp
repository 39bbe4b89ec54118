#include "kernels/threads.h"

#include <fmt/format.h>
#include <omp.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "base/free_memory.h"
#include "base/stack.h"

namespace dither {

namespace {

/// The stack of a thread of OpenMP: OMP_STACKSIZE ("512k", "8 M"; KiB without a unit), else the system's default.
size_t team_stack_bytes() {
  const char* text = std::getenv("OMP_STACKSIZE");
  if (text == nullptr) text = std::getenv("GOMP_STACKSIZE");
  char* end = nullptr;
  const double number = text != nullptr ? std::strtod(text, &end) : 0;
  if (number <= 0 || number > 1e12) return default_stack_bytes();  // what OpenMP does not understand it ignores
  const std::string unit(end + std::strspn(end, " \t"), 1);
  const double scale = unit == "b" || unit == "B"   ? 1
                       : unit == "m" || unit == "M" ? 1024 * 1024
                       : unit == "g" || unit == "G" ? 1024.0 * 1024 * 1024
                                                    : 1024;
  return static_cast<size_t>(number * scale);
}

/// Threads that wait until all of them are there.
struct Gathering {
  std::mutex mutex;
  std::condition_variable changed;
  bool over = false;

  static void* wait(void* gathering) {
    auto& self = *static_cast<Gathering*>(gathering);
    std::unique_lock lock(self.mutex);
    self.changed.wait(lock, [&self] { return self.over; });
    return nullptr;
  }
};

/// How many threads beside this one can be there at once, up to `wanted`.
int threads_to_be_had(int wanted, size_t stack_bytes) {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return wanted;
  pthread_attr_setstacksize(&attributes, stack_bytes);
  Gathering gathering;
  std::vector<pthread_t> threads;
  for (int i = 0; i < wanted; ++i) {
    pthread_t thread;
    if (pthread_create(&thread, &attributes, Gathering::wait, &gathering) != 0) break;
    threads.push_back(thread);
  }
  pthread_attr_destroy(&attributes);
  {
    const std::lock_guard lock(gathering.mutex);
    gathering.over = true;
  }
  gathering.changed.notify_all();
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  return static_cast<int>(threads.size());
}

}  // namespace

ThreadChoice usable_threads(int local_ranks, const std::string& root) {
  const int ranks = std::max(1, local_ranks), cores = std::max(1, omp_get_num_procs());
  const auto all = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  ThreadChoice choice{cores, cores < all ? "the cores that this process may run on" : ""};
  const auto take_least = [&choice](int threads, const std::string& limit) {
    if (threads < choice.threads) choice = {std::max(1, threads), limit};
  };
  if (cores >= all) take_least(cores / ranks, fmt::format("cores shared by {} ranks", ranks));
  const CpuQuota quota = cpu_quota(root);
  if (quota.cores > 0) {
    const double share = std::min(quota.cores / ranks, static_cast<double>(cores));
    take_least(static_cast<int>(std::ceil(share - 1e-6)), quota.limit);
  }
  take_least(omp_get_max_threads(), "OMP_NUM_THREADS");
  take_least(omp_get_thread_limit(), "OMP_THREAD_LIMIT");
  return choice;
}

void demand_threads(int threads) {
  static std::atomic<int> proven = 1;
  if (threads <= proven) return;
  const size_t stack = team_stack_bytes();
  if (stack < kStackBytes) {
    throw Error(
        fmt::format("OMP_STACKSIZE gives threads stacks of {} KiB, needs at least {} KiB\n       cure: unset it",
                    stack >> 10, kStackBytes >> 10));
  }
  const int found = 1 + threads_to_be_had(threads - 1, stack);
  if (found < threads) {
    throw Error(
        fmt::format("{} threads are wanted and the system gives {}: {}\n       cures: a smaller parallel.threads (here "
                    "{} at most), or a larger limit",
                    threads, found, refusal_causes(), found));
  }
  proven = threads;
}

}  // namespace dither
