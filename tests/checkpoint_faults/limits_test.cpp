// Disks that are full in truth: a limit on the size of files, and a file system of a few MiB. Each in a process of its
// own, since neither can be taken back.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstring>
#include <functional>

#include "base/error.h"
#include "tests/catch.h"
#include "tests/checkpoint_faults/place.h"
#include "tests/checkpoint_faults/saved_state.h"

using namespace dither;
using namespace dither::test;
using Catch::Matchers::ContainsSubstring;

namespace {

/// What body() returns in a child process, or throws.
std::string in_child(const std::function<std::string()>& body) {
  int ends[2];
  if (pipe(ends) != 0) throw Error(std::string("pipe: ") + std::strerror(errno));
  const pid_t child = fork();
  if (child < 0) throw Error(std::string("fork: ") + std::strerror(errno));
  if (child == 0) {
    std::string answer;
    try {
      answer = body();
    } catch (const std::exception& e) {
      answer = std::string("threw ") + e.what();
    }
    _exit(write(ends[1], answer.data(), answer.size()) == static_cast<ssize_t>(answer.size()) ? 0 : 1);
  }
  close(ends[1]);
  std::string answer;
  char buffer[4096];
  for (ssize_t n = 0; (n = read(ends[0], buffer, sizeof buffer)) > 0;) answer.append(buffer, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  if (waitpid(child, &status, 0) != child || status != 0) return "the child's status is " + std::to_string(status);
  return answer;
}

std::string error_of_save(const SavedState& state, const std::string& folder, int64_t step) {
  try {
    state.save(disk(), folder, step);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

bool write_file(const char* path, const std::string& text) {
  const int file = open(path, O_WRONLY | O_CLOEXEC);
  if (file < 0) return false;
  const bool written = write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  close(file);
  return written;
}

/// Mounts a file system of so many MiB that only this process sees; why not, or "". As root, or where users may have
/// namespaces.
std::string mount_small(const std::string& path, int mib) {
  const uid_t user = getuid();
  const gid_t group = getgid();
  if (unshare(CLONE_NEWNS) != 0) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return std::string("unshare: ") + std::strerror(errno);
    if (!write_file("/proc/self/setgroups", "deny") ||
        !write_file("/proc/self/uid_map", "0 " + std::to_string(user) + " 1") ||
        !write_file("/proc/self/gid_map", "0 " + std::to_string(group) + " 1")) {
      return std::string("user namespace: ") + std::strerror(errno);
    }
  }
  if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return std::string("private mounts: ") + std::strerror(errno);
  }
  const std::string size = "size=" + std::to_string(mib) + "m";
  if (mount("none", path.c_str(), "tmpfs", 0, size.c_str()) != 0) return std::string("mount: ") + std::strerror(errno);
  return "";
}

constexpr const char* kCannotMount = "cannot mount: ";

/// A save while another user of the disk leaves it too little, and one that would not fit from the start.
std::string on_small_disk(const SavedState& state, const std::string& real) {
  if (const std::string why = mount_small(real, 3); !why.empty()) return kCannotMount + why;
  const std::string folder = real + "/checkpoints", filler = real + "/filler";
  state.save(disk(), folder, 1);
  NewCheckpoint second(disk(), path_in(folder, 2));
  second.begin(state.checkpoint_bytes());
  put(disk(), filler, std::string(static_cast<size_t>(disk().free_bytes(real) - state.checkpoint_bytes() / 2), 'x'),
      false);
  std::string told;
  try {
    second.commit(state.write_shards(disk(), second.partial(), 2));
  } catch (const Error& e) {
    told = e.what();
  }
  second.discard();
  told += "\nthen: " + error_of_save(state, folder, 3);
  if (steps_in(folder) != std::vector<int64_t>{1}) return "not the first checkpoint alone is listed after: " + told;
  verify(path_in(folder, 1));
  disk().remove(filler);
  state.save(disk(), folder, 2);
  verify(path_in(folder, 2));
  return told;
}

}  // namespace

// Catches: a write whose short count is taken for success, SIGXFSZ aside, an attempt that leaves what the next one
// trips over.
TEST_CASE("a limit on the size of files fails a save with the system's reason") {
  const SavedState state(1);
  const Place place;
  const std::string folder = place / "checkpoints";
  state.save(disk(), folder, 1);
  const auto shard = static_cast<int64_t>(std::filesystem::file_size(path_in(folder, 1) + "/" + shard_name(0)));
  const int64_t limit = GENERATE_COPY(int64_t{0}, int64_t{1}, int64_t{1000}, shard / 2, shard - 1);
  const std::string answer = in_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit bound{static_cast<rlim_t>(limit), static_cast<rlim_t>(limit)};
    if (setrlimit(RLIMIT_FSIZE, &bound) != 0) return std::string("setrlimit: ") + std::strerror(errno);
    return error_of_save(state, folder, 2);
  });
  REQUIRE(answer == path_in(folder, 2) + ".partial/rank-00000.safetensors: cannot be written: File too large");
  REQUIRE(steps_in(folder) == std::vector<int64_t>{1});
  verify(path_in(folder, 1));
  state.save(disk(), folder, 2);
  verify(path_in(folder, 2));
}

// Catches: space that is counted once and then relied on, a check that asks the wrong disk.
TEST_CASE("a full disk fails a save, whether that shows before it or during it, and the next one succeeds") {
  const SavedState state(1);
  const Place place;
  const std::string answer = in_child([&] { return on_small_disk(state, place.real()); });
  if (answer.rfind(kCannotMount, 0) == 0) {
    std::fprintf(stderr, "no small file system here (%s); the limit on the size of files stands for it\n",
                 answer.c_str());
    return;
  }
  REQUIRE_THAT(answer, ContainsSubstring("step-00000002.partial/rank-0000") &&
                           ContainsSubstring("cannot be written: No space left on device") &&
                           ContainsSubstring("then: " + (place / "checkpoints") + ": 0.") &&
                           ContainsSubstring(" MiB are free, a checkpoint needs 1."));
}
