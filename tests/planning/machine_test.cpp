// What of this machine a CPU rank may use.
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "kernels/threads.h"
#include "tests/catch.h"

namespace dither {

// Catches: all cores taken where control groups give less of their time, a quota of two and a half cores cut to two,
// ranks of a node that each take what they share, no thread at all.
TEST_CASE("threads follow the CPU quota, and ranks of a node share it") {
  std::string root = (std::filesystem::temp_directory_path() / "dither-machine-XXXXXX").string();
  REQUIRE(mkdtemp(root.data()) != nullptr);
  const auto write = [&root](const std::string& file, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root + file).parent_path());
    std::ofstream(root + file) << text;
  };
  write("/proc/self/cgroup", "0::/a\n");
  write("/proc/self/mountinfo", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  const int all = usable_threads(1, root).threads;
  REQUIRE(all >= 1);
  REQUIRE(all <= static_cast<int>(std::thread::hardware_concurrency()));
  write("/sys/fs/cgroup/a/cpu.max", "50000 100000\n");
  REQUIRE(usable_threads(1, root).threads == 1);
  if (all > 1) REQUIRE(usable_threads(1, root).limit == "cpu.max of /sys/fs/cgroup/a");
  write("/sys/fs/cgroup/a/cpu.max", std::to_string(all * 100000 - 50000) + " 100000\n");
  REQUIRE(usable_threads(1, root).threads == all);  // rounded up: half a core of time is time
  REQUIRE(usable_threads(2 * all, root).threads == 1);
  write("/sys/fs/cgroup/a/cpu.max", "10000000 100000\n");
  REQUIRE(usable_threads(1, root).threads == all);
  std::filesystem::remove_all(root);
}

}  // namespace dither
