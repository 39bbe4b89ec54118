#include "src/checkpoint/file_system.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <utility>  // exchange
#include <vector>

#include "base/error.h"
#include "src/checkpoint/disk_file.h"

namespace dither {

namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const std::string& path, const std::string& action, int error = errno) {
  fail_on_disk(path, action, error);
}

/// Whether `error` says that this file system does not have an operation (some FUSE, CIFS), not that it failed.
bool is_unsupported(int error) {
  return error == EINVAL || error == EBADF || error == ENOSYS || error == ENOTSUP || error == EOPNOTSUPP;
}

class Disk final : public FileSystem {
 public:
  std::unique_ptr<OutputFile> create(const std::string& path) override {
    return std::make_unique<DiskOutputFile>(path);
  }

  void make_folder(const std::string& path) override {
    std::error_code failed;
    fs::create_directories(path, failed);
    if (failed) fail(path, "be made", failed.value());
  }
  void rename(const std::string& from, const std::string& to) override {
    if (std::rename(from.c_str(), to.c_str()) != 0) fail(from, "be renamed to " + to);
  }
  void remove(const std::string& path) override {
    std::error_code failed;
    fs::remove_all(path, failed);
    if (failed) fail(path, "be removed", failed.value());
  }
  void sync_folder(const std::string& path) override {
    const int folder = open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) fail(path, "be opened to sync it");
    const int status = fsync(folder), error = errno;
    close(folder);
    if (status == 0) return;
    if (!is_unsupported(error)) fail(path, "be synced", error);
    warn(sync_warned_, fmt::format("{}: this file system cannot sync folders ({}): a checkpoint that is finished may "
                                   "be lost when the machine loses its power",
                                   path, std::strerror(error)));
  }
  int64_t free_bytes(const std::string& path) override {
    struct statvfs status = {};
    const int error = statvfs(path.c_str(), &status) == 0 ? 0 : errno;
    if (error != 0 && !is_unsupported(error)) fail(path, "be asked for its free space", error);
    if (error == 0 && status.f_blocks > 0) {
      return static_cast<int64_t>(status.f_bavail) * static_cast<int64_t>(status.f_frsize);
    }
    warn(space_warned_, fmt::format("{}: this file system does not say how much space is free: a disk that is full is "
                                    "noticed when a checkpoint does not fit",
                                    path));
    return -1;
  }
  std::string take_warning() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(warning_, {});
  }

 private:
  void warn(bool& warned, const std::string& text) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (std::exchange(warned, true)) return;
    warning_ += (warning_.empty() ? "" : "\n") + text;
  }

  std::mutex mutex_;
  std::string warning_;
  bool sync_warned_ = false, space_warned_ = false;
};

}  // namespace

void fail_on_disk(const std::string& path, const std::string& action, int error) {
  const std::string text = fmt::format("{}: cannot {}: {}", path, action, std::strerror(error));
  if (error == ENOSPC || error == EDQUOT) throw DiskFull(text);
  throw Error(text);
}

FileSystem& disk() {
  static Disk the_disk;
  return the_disk;
}

bool there_is(const std::string& path) {
  std::error_code unknown;
  return fs::exists(path, unknown);
}

void make_durable_folder(FileSystem& files, const std::string& path) {
  const auto above = [](const std::string& name) { return fs::path(name).parent_path().string(); };
  std::vector<std::string> parents = {above(path)};
  while (!parents.back().empty() && !there_is(parents.back())) parents.push_back(above(parents.back()));
  // A folder that has long been there may lie in one that its user cannot read, as a home may.
  const bool out_of_reach = there_is(path) && access(parents[0].empty() ? "." : parents[0].c_str(), R_OK) != 0;
  files.make_folder(path);
  if (out_of_reach) return;
  for (const std::string& parent : parents) files.sync_folder(parent);
}

}  // namespace dither
