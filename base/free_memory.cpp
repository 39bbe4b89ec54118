#include "base/free_memory.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

#include "base/cgroup.h"

namespace dither {

namespace {

/// What a group that holds `used` bytes still allows under `limit`. Its file cache is given up before anything fails.
int64_t allowed_by(int64_t limit, const std::string& folder, const char* usage, const char* inactive,
                   const char* active) {
  const int64_t used = number_of(pseudo_file(folder + "/" + usage)).value_or(0);
  const std::string stat = pseudo_file(folder + "/memory.stat");
  const int64_t cache = number_after(stat, inactive).value_or(0) + number_after(stat, active).value_or(0);
  return std::max<int64_t>(0, limit - std::max<int64_t>(0, used - cache));
}

void take_least(FreeMemory& least, int64_t bytes, const std::string& limit) {
  if (least.bytes < 0 || bytes < least.bytes) least = {bytes, limit};
}

/// The soft limit of a line of /proc/self/limits, in bytes; nothing for "unlimited".
std::optional<int64_t> limit_of(const std::string& name, const std::string& root) {
  return number_after(pseudo_file(root + "/proc/self/limits"), name);
}

int64_t mappings(const std::string& root) {
  const std::string maps = pseudo_file(root + "/proc/self/maps");
  return std::count(maps.begin(), maps.end(), '\n');
}

}  // namespace

FreeMemory free_memory(const std::string& root) {
  FreeMemory least;
  if (const auto kibibytes = number_after(pseudo_file(root + "/proc/meminfo"), "MemAvailable:")) {
    least = {*kibibytes * 1024, "MemAvailable"};
  }
  for (const CgroupFolder& folder : cgroup_folders("memory", root)) {
    const std::string path = root + folder.path;
    if (!folder.unified) {
      if (const auto limit = number_of(pseudo_file(path + "/memory.limit_in_bytes"))) {
        take_least(least, allowed_by(*limit, path, "memory.usage_in_bytes", "total_inactive_file", "total_active_file"),
                   "memory.limit_in_bytes of " + folder.path);
      }
      continue;
    }
    for (const char* name : {"memory.max", "memory.high"}) {
      if (const auto limit = number_of(pseudo_file(path + "/" + name))) {
        take_least(least, allowed_by(*limit, path, "memory.current", "inactive_file", "active_file"),
                   fmt::format("{} of {}", name, folder.path));
      }
    }
  }
  if (const auto limit = limit_of("Max address space", root)) {
    const int64_t pages = number_of(pseudo_file(root + "/proc/self/statm")).value_or(0);
    take_least(least, std::max<int64_t>(0, *limit - pages * sysconf(_SC_PAGESIZE)), kAddressSpaceLimit);
  }
  return least;
}

int64_t free_memory_bytes() { return free_memory().bytes; }

CpuQuota cpu_quota(const std::string& root) {
  CpuQuota least;
  for (const CgroupFolder& folder : cgroup_folders("cpu", root)) {
    const std::string path = root + folder.path;
    const char* name = folder.unified ? "cpu.max" : "cpu.cfs_quota_us";
    const std::string text = pseudo_file(path + "/" + name);  // "150000 100000", "max 100000"; version 1: -1 for none
    const std::string of_period =
        folder.unified ? text.substr(std::min(text.find(' '), text.size())) : pseudo_file(path + "/cpu.cfs_period_us");
    const int64_t quota = number_of(text).value_or(0), period = number_of(of_period).value_or(0);
    if (quota <= 0 || period <= 0) continue;
    const double cores = static_cast<double>(quota) / static_cast<double>(period);
    if (least.cores == 0 || cores < least.cores) least = {cores, fmt::format("{} of {}", name, folder.path)};
  }
  return least;
}

std::string refusal_causes(const std::string& root) {
  constexpr double kNear = 0.9;
  constexpr rlim_t kFewThreads = 16384;
  std::string causes;
  const auto add = [&causes](const std::string& cause) { causes += (causes.empty() ? "" : "; ") + cause; };
  const int64_t most = number_of(pseudo_file(root + "/proc/sys/vm/max_map_count")).value_or(0);
  const int64_t used = mappings(root);
  if (most > 0 && static_cast<double>(used) > kNear * static_cast<double>(most)) {
    add(fmt::format("{} of {} memory mappings are in use (sysctl vm.max_map_count=262144)", used, most));
  }
  rlimit limit = {};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    add(fmt::format("ulimit -v is {} KiB (ulimit -v unlimited)", limit.rlim_cur / 1024));
  }
  if (getrlimit(RLIMIT_DATA, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    add(fmt::format("ulimit -d is {} KiB (ulimit -d unlimited)", limit.rlim_cur / 1024));
  }
  if (getrlimit(RLIMIT_NPROC, &limit) == 0 && limit.rlim_cur < kFewThreads) {
    add(fmt::format("ulimit -u allows this user {} threads (a larger ulimit -u)", limit.rlim_cur));
  }
  for (const CgroupFolder& folder : cgroup_folders("pids", root)) {
    if (const auto pids = number_of(pseudo_file(root + folder.path + "/pids.max"))) {
      add(fmt::format("pids.max of {} is {}", folder.path, *pids));
    }
  }
  if (number_of(pseudo_file(root + "/proc/sys/vm/overcommit_memory")).value_or(0) == 2) {
    add("vm.overcommit_memory is 2 (a larger vm.overcommit_ratio)");
  }
  return causes.empty() ? "no limit of this process is known to be reached" : causes;
}

}  // namespace dither
