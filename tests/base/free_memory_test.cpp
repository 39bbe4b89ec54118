// Limits of memory and processors, read from false /proc and /sys trees.
#include "base/free_memory.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/stack.h"
#include "tests/catch.h"

namespace dither {
namespace {

constexpr int64_t kMiB = 1 << 20;
const std::string kRest = "nodev,noexec - ";

/// A false root folder, gone at the end of the test.
class Root {
 public:
  Root() {
    std::string name = (std::filesystem::temp_directory_path() / "dither-root-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
    write("/proc/meminfo", "MemTotal: 9000000 kB\nMemAvailable:    1024000 kB\n");
  }
  ~Root() { std::filesystem::remove_all(path_); }
  Root(const Root&) = delete;
  Root& operator=(const Root&) = delete;

  void write(const std::string& file, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(path_ + file).parent_path());
    std::ofstream(path_ + file) << text;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// Version 2, as a process of group /jobs/a sees it; the mount shows the groups from `seen` on.
void mount_unified(const Root& root, const std::string& group, const std::string& seen = "/") {
  root.write("/proc/self/cgroup", "0::" + group + "\n");
  root.write("/proc/self/mountinfo", "22 1 0:20 / /proc rw - proc proc rw\n30 1 0:26 " + seen +
                                         " /sys/fs/cgroup rw,nosuid " + kRest + "cgroup2 cgroup2 rw,nsdelegate\n");
}

}  // namespace

// Catches: MemAvailable taken where a group allows less, a limit of the group alone or of its parents alone, a file
// cache counted as used, "max" read as 0, a group outside of the container's mount looked for and not found.
TEST_CASE("free memory is the least of MemAvailable and of what every control group around this process allows") {
  const Root root;
  REQUIRE(free_memory(root.path()).bytes == 1000 * kMiB);
  REQUIRE(free_memory(root.path()).limit == "MemAvailable");

  mount_unified(root, "/jobs/a");
  root.write("/sys/fs/cgroup/jobs/a/memory.max", "max\n");
  root.write("/sys/fs/cgroup/jobs/memory.max", std::to_string(500 * kMiB) + "\n");
  root.write("/sys/fs/cgroup/jobs/memory.current", std::to_string(300 * kMiB) + "\n");
  root.write("/sys/fs/cgroup/jobs/memory.stat", "anon 1\ninactive_file " + std::to_string(40 * kMiB) +
                                                    "\nactive_file " + std::to_string(10 * kMiB) + "\n");
  REQUIRE(free_memory(root.path()).bytes == (500 - 300 + 50) * kMiB);
  REQUIRE(free_memory(root.path()).limit == "memory.max of /sys/fs/cgroup/jobs");

  root.write("/sys/fs/cgroup/jobs/a/memory.high", std::to_string(100 * kMiB) + "\n");
  root.write("/sys/fs/cgroup/jobs/a/memory.current", std::to_string(120 * kMiB) + "\n");
  REQUIRE(free_memory(root.path()).bytes == 0);
  REQUIRE(free_memory(root.path()).limit == "memory.high of /sys/fs/cgroup/jobs/a");

  // A container: its own group is what is mounted; /proc still names the host's path, or one above the mount.
  const std::string seen = GENERATE("/docker/7", "/");
  mount_unified(root, seen == "/" ? "/../7" : "/docker/7", seen);
  root.write("/sys/fs/cgroup/memory.max", std::to_string(64 * kMiB) + "\n");
  REQUIRE(free_memory(root.path()).bytes == 64 * kMiB);
  REQUIRE(free_memory(root.path()).limit == "memory.max of /sys/fs/cgroup");
}

// Catches: version 1 not known, its "no limit" (2^63 less a page) taken for one, files of one controller read from
// another's mount, ulimit -v forgotten.
TEST_CASE("control groups of version 1 and ulimit -v limit memory too") {
  const Root root;
  root.write("/proc/self/cgroup", "9:cpu,cpuacct:/b\n4:memory:/a\n0::/\n");
  root.write("/proc/self/mountinfo", "30 1 0:26 / /sys/fs/cgroup/cpu rw " + kRest +
                                         "cgroup cgroup rw,cpu,cpuacct\n31 1 0:27 / "
                                         "/sys/fs/cgroup/memory rw " +
                                         kRest + "cgroup cgroup rw,memory\n");
  root.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  REQUIRE(free_memory(root.path()).bytes == 1000 * kMiB);
  root.write("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", std::to_string(90 * kMiB) + "\n");
  root.write("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", std::to_string(30 * kMiB) + "\n");
  root.write("/sys/fs/cgroup/memory/a/memory.stat", "total_inactive_file " + std::to_string(20 * kMiB) + "\n");
  REQUIRE(free_memory(root.path()).bytes == 80 * kMiB);
  REQUIRE(free_memory(root.path()).limit == "memory.limit_in_bytes of /sys/fs/cgroup/memory/a");

  root.write("/proc/self/limits", "Max data size  unlimited unlimited bytes\nMax address space         " +
                                      std::to_string(50 * kMiB) + "            unlimited            bytes\n");
  root.write("/proc/self/statm", std::to_string(10 * kMiB / sysconf(_SC_PAGESIZE)) + " 1 1 1\n");
  REQUIRE(free_memory(root.path()).bytes == 40 * kMiB);
  REQUIRE(free_memory(root.path()).limit == "ulimit -v");

  REQUIRE(cpu_quota(root.path()).cores == 0);
  root.write("/sys/fs/cgroup/cpu/b/cpu.cfs_quota_us", "250000\n");
  root.write("/sys/fs/cgroup/cpu/b/cpu.cfs_period_us", "100000\n");
  root.write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  root.write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  REQUIRE(cpu_quota(root.path()).cores == 2.5);
  REQUIRE(cpu_quota(root.path()).limit == "cpu.cfs_quota_us of /sys/fs/cgroup/cpu/b");
}

TEST_CASE("the quota of processors is the least of all groups around this process") {
  const Root root;
  mount_unified(root, "/jobs/a");
  root.write("/sys/fs/cgroup/jobs/a/cpu.max", "max 100000\n");
  REQUIRE(cpu_quota(root.path()).cores == 0);
  root.write("/sys/fs/cgroup/jobs/cpu.max", "150000 100000\n");
  REQUIRE(cpu_quota(root.path()).cores == 1.5);
  REQUIRE(cpu_quota(root.path()).limit == "cpu.max of /sys/fs/cgroup/jobs");
}

// Catches: "out of memory" where the limit is one of mappings, of threads, or of what may be promised; a limit named
// that is far away.
TEST_CASE("where the system refuses memory or threads the limits that are reached are named with their cures") {
  const Root root;
  mount_unified(root, "/jobs/a");
  root.write("/proc/sys/vm/max_map_count", "100\n");
  std::string maps;
  for (int i = 0; i < 90; ++i) maps += "7f0000000000-7f0000001000 rw-p 00000000 00:00 0\n";
  root.write("/proc/self/maps", maps);
  root.write("/sys/fs/cgroup/jobs/pids.max", "max\n");
  root.write("/proc/sys/vm/overcommit_memory", "0\n");
  const auto causes = [&](const std::string& part) {
    return refusal_causes(root.path()).find(part) != std::string::npos;
  };
  INFO(refusal_causes(root.path()));
  REQUIRE_FALSE(causes("mappings"));
  REQUIRE_FALSE(causes("pids.max"));
  REQUIRE_FALSE(causes("overcommit"));

  root.write("/proc/self/maps", maps + maps.substr(0, maps.find('\n') + 1));
  root.write("/sys/fs/cgroup/jobs/pids.max", "64\n");
  root.write("/proc/sys/vm/overcommit_memory", "2\n");
  INFO(refusal_causes(root.path()));
  REQUIRE(causes("91 of 100 memory mappings are in use (sysctl vm.max_map_count="));
  REQUIRE(causes("pids.max of /sys/fs/cgroup/jobs is 64"));
  REQUIRE(causes("vm.overcommit_memory is 2 (a larger vm.overcommit_ratio)"));
}

// Catches: a small `ulimit -s` that ends in a stack overflow of the main thread or of one that is started.
TEST_CASE("stacks are raised to what the program needs, or the error says how") {
  const auto status_under = [](rlim_t soft, rlim_t hard) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      const rlimit limit{soft, hard};
      if (setrlimit(RLIMIT_STACK, &limit) != 0) _exit(9);
      try {
        prepare_stacks();
      } catch (const std::exception& e) {
        _exit(std::string(e.what()).find("ulimit -s 1024") != std::string::npos ? 2 : 8);
      }
      rlimit now{};
      getrlimit(RLIMIT_STACK, &now);
      _exit(now.rlim_cur >= kStackBytes && default_stack_bytes() >= kStackBytes ? 0 : 7);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WEXITSTATUS(status);
  };
  rlimit own{};
  REQUIRE(getrlimit(RLIMIT_STACK, &own) == 0);
  CHECK(status_under(256 << 10, own.rlim_max) == 0);
  CHECK(status_under(256 << 10, 512 << 10) == 2);
}

}  // namespace dither
