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
#include <vector>

#include "base/error.h"

namespace dither {

namespace {

namespace fs = std::filesystem;

// After so many bytes the system is asked to begin with writing them to the disk, so that sync() finds little left.
constexpr int64_t kBytesAhead = int64_t{16} << 20;

[[noreturn]] void fail(const std::string& path, const char* action, int error = errno) {
  throw Error(fmt::format("{}: cannot {}: {}", path, action, std::strerror(error)));
}

class DiskFile final : public OutputFile {
 public:
  explicit DiskFile(const std::string& path) : path_(path) {
    descriptor_ = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (descriptor_ < 0) fail(path, "be created");
  }
  ~DiskFile() override { close(descriptor_); }
  DiskFile(const DiskFile&) = delete;
  DiskFile& operator=(const DiskFile&) = delete;

  void write(const void* data, int64_t bytes) override {
    const char* next = static_cast<const char*>(data);
    while (bytes > 0) {  // one call writes 2 GiB at most, and less on a disk that is nearly full
      const ssize_t written = ::write(descriptor_, next, static_cast<size_t>(std::min(bytes, kBytesAhead)));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail(path_, "be written");
      next += written;
      bytes -= written;
      written_ += written;
      begin_writeback();
    }
  }
  void sync() override {
    if (fsync(descriptor_) != 0) fail(path_, "be synced");
  }

 private:
  // A wish: where the file system does not know it, sync() does all the work.
  void begin_writeback() {
    if (written_ - begun_ < kBytesAhead) return;
    sync_file_range(descriptor_, begun_, written_ - begun_, SYNC_FILE_RANGE_WRITE);
    begun_ = written_;
  }

  const std::string path_;
  int descriptor_ = -1;
  int64_t written_ = 0, begun_ = 0;
};

class Disk final : public FileSystem {
 public:
  std::unique_ptr<OutputFile> create(const std::string& path) override { return std::make_unique<DiskFile>(path); }

  void make_folder(const std::string& path) override {
    std::error_code failed;
    fs::create_directories(path, failed);
    if (failed) fail(path, "be made", failed.value());
  }
  void rename(const std::string& from, const std::string& to) override {
    if (std::rename(from.c_str(), to.c_str()) != 0) fail(from, ("be renamed to " + to).c_str());
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
    if (status != 0) fail(path, "be synced", error);
  }
  int64_t free_bytes(const std::string& path) override {
    struct statvfs status = {};
    if (statvfs(path.c_str(), &status) != 0) fail(path, "be asked for its free space");
    return static_cast<int64_t>(status.f_bavail) * static_cast<int64_t>(status.f_frsize);
  }
};

}  // namespace

FileSystem& disk() {
  static Disk the_disk;
  return the_disk;
}

void make_durable_folder(FileSystem& files, const std::string& path) {
  const auto above = [](const std::string& name) { return fs::path(name).parent_path().string(); };
  const auto there_is = [](const std::string& name) {
    std::error_code unknown;  // then making it says why
    return name.empty() || fs::exists(name, unknown);
  };
  std::vector<std::string> parents = {above(path)};
  while (!there_is(parents.back())) parents.push_back(above(parents.back()));
  // A folder that has long been there may lie in one that its user cannot read, as a home may.
  const bool out_of_reach = there_is(path) && access(parents[0].empty() ? "." : parents[0].c_str(), R_OK) != 0;
  files.make_folder(path);
  if (out_of_reach) return;
  for (const std::string& parent : parents) files.sync_folder(parent);
}

}  // namespace dither
