// The machine's own disk: that sync() and sync_folder() ask the system for it, and what the system's refusals become.
//
// The test's own fsync and statvfs stand in the C library's place; they note which file they were called for and do the
// same.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "base/error.h"
#include "src/checkpoint/checkpoint_folder.h"
#include "tests/catch.h"
#include "tests/checkpoint_faults/place.h"

namespace {

std::vector<ino_t> g_synced;  // inodes, in the order of calls
int g_error = 0;              // what the next calls fail with; 0: they do not
int g_space_error = -1;       // the same of statvfs; 0: it knows of no block; -1: it does what it does

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

extern "C" int statvfs(const char* path, struct statvfs* status) {
  if (g_space_error == 0) return *status = {}, 0;
  if (g_space_error > 0) return errno = g_space_error, -1;
  struct statfs found = {};
  if (statfs(path, &found) != 0) return -1;
  *status = {};
  status->f_blocks = found.f_blocks;
  status->f_bavail = found.f_bavail;
  status->f_frsize = static_cast<unsigned long>(found.f_frsize);
  return 0;
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

struct FailingSpace {
  explicit FailingSpace(int error) { g_space_error = error; }
  ~FailingSpace() { g_space_error = -1; }
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

// Catches: a run that cannot begin on a file system without such an operation; a warning for each checkpoint, or none;
// a real failure taken for a missing operation; space that nobody counts taken for none.
TEST_CASE("a file system that cannot sync folders or tell its space is told once, and is no error") {
  const Place place;
  (void)disk().take_warning();
  for (const int error : {EINVAL, ENOSYS, EOPNOTSUPP}) {
    const FailingSync failing(error);
    REQUIRE(error_of([&] { disk().sync_folder(place.real()); }).empty());
  }
  const std::string synced = disk().take_warning();
  REQUIRE(synced.find(place.real() + ": this file system cannot sync folders (Invalid argument)") == 0);
  {
    const FailingSpace failing(ENOSYS);
    REQUIRE(disk().free_bytes(place.real()) == -1);
    REQUIRE(disk().take_warning().find("does not say how much space is free") != std::string::npos);
    NewCheckpoint checkpoint(disk(), place / "step-00000001");
    REQUIRE(error_of([&] { checkpoint.begin(1000); }).empty());
  }
  {
    const FailingSpace failing(0);  // a volume of no blocks
    REQUIRE(disk().free_bytes(place.real()) == -1);
  }
  {
    const FailingSpace failing(EIO);
    REQUIRE(error_of([&] { disk().free_bytes(place.real()); }) ==
            place.real() + ": cannot be asked for its free space: Input/output error");
  }
  REQUIRE(disk().free_bytes(place.real()) > 0);
  REQUIRE(disk().take_warning().empty());
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
