// The machine's own disk: that sync() and sync_folder() ask the system for it, and what the system's refusals become.
//
// The test's own fsync stands in the C library's place; it notes which file it was called for and does the same.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "base/error.h"
#include "tests/catch.h"
#include "tests/checkpoint_faults/place.h"

namespace {

std::vector<ino_t> g_synced;  // inodes, in the order of calls
int g_error = 0;              // what the next calls fail with; 0: they do not

}  // namespace

extern "C" int fsync(int descriptor) {
  struct stat status = {};
  if (fstat(descriptor, &status) == 0) g_synced.push_back(status.st_ino);
  if (g_error != 0) {
    errno = g_error;
    return -1;
  }
  return static_cast<int>(syscall(SYS_fsync, descriptor));
}

using namespace dither;
using namespace dither::test;

namespace {

ino_t inode(const std::string& path) {
  struct stat status = {};
  REQUIRE(stat(path.c_str(), &status) == 0);
  return status.st_ino;
}

struct FailingSync {
  explicit FailingSync(int error) { g_error = error; }
  ~FailingSync() { g_error = 0; }
};

}  // namespace

// Catches: a sync() or sync_folder() that asks for nothing, or for another file: no layer above could see that.
TEST_CASE("the disk's sync and sync_folder reach the system, each for its own") {
  const Place place;
  g_synced.clear();
  const auto file = put(disk(), place / "a", "text", false);
  REQUIRE(g_synced.empty());
  file->sync();
  REQUIRE(g_synced == std::vector<ino_t>{inode(place / "a")});
  disk().sync_folder(place.real());
  REQUIRE(g_synced == std::vector<ino_t>{inode(place / "a"), inode(place.real())});
}

// Catches: an fsync whose status nobody looks at: the bytes may be gone after it.
TEST_CASE("a sync that the system refuses is an error with the path and the reason") {
  const Place place;
  const auto file = put(disk(), place / "a", "text", false);
  const FailingSync failing(EIO);
  REQUIRE(error_of([&] { file->sync(); }) == (place / "a") + ": cannot be synced: Input/output error");
  REQUIRE(error_of([&] { disk().sync_folder(place.real()); }) ==
          place.real() + ": cannot be synced: Input/output error");
}

// Catches: refusals of the system that are swallowed, or told without their path.
TEST_CASE("what the system refuses is an error with the path and the reason") {
  const Place place;
  const std::string missing = place / "missing", inside = missing + "/a";
  REQUIRE(error_of([&] { disk().create(inside); }) == inside + ": cannot be created: No such file or directory");
  REQUIRE(error_of([&] { disk().rename(missing, place / "b"); }) ==
          missing + ": cannot be renamed to " + (place / "b") + ": No such file or directory");
  REQUIRE(error_of([&] { disk().sync_folder(missing); }) ==
          missing + ": cannot be opened to sync it: No such file or directory");
  REQUIRE(error_of([&] { disk().free_bytes(missing); }) ==
          missing + ": cannot be asked for its free space: No such file or directory");
  REQUIRE(error_of([&] { disk().remove(missing); }).empty());  // there is nothing to remove
  put(disk(), place / "a", "text", false);
  REQUIRE(error_of([&] { disk().make_folder(place / "a/b"); }) ==
          (place / "a/b") + ": cannot be made: Not a directory");
  const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);  // a device that is always full
  if (full < 0) return;
  close(full);
  REQUIRE(error_of([&] { put(disk(), "/dev/full", "text", true); }) ==
          "/dev/full: cannot be written: No space left on device");
}
