// Descriptors and pread(): see shard_files.h.
#include "src/data/shard_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace dither {

namespace {

int64_t share_of_limit() {
  constexpr int64_t kLeast = 8, kMost = 4096;  // even where the limit is small, or there is none
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kMost;
  return std::clamp<int64_t>(static_cast<int64_t>(limit.rlim_cur / 4), kLeast, kMost);
}

/// Opens a file and says what it is now.
int open_for_reading(const std::string& path, struct stat& status) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe would wait for its writer
  if (file < 0) {
    throw DataError(fmt::format("{}: could not open the file: {}{}", path, std::strerror(errno),
                                errno == EMFILE ? "; raise the limit (ulimit -n)" : ""));
  }
  if (fstat(file, &status) != 0) {
    const int error = errno;
    close(file);
    throw DataError(fmt::format("{}: could not look at the file: {}", path, std::strerror(error)));
  }
  return file;
}

}  // namespace

struct ShardFiles::Descriptor {
  explicit Descriptor(int file) : number(file) {}
  ~Descriptor() { close(number); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  const int number;
};

ShardFiles::ShardFiles(int64_t most_open) : most_open_(most_open > 0 ? most_open : share_of_limit()) {}

int64_t ShardFiles::add(const std::string& path) {
  struct stat status {};
  auto opened = std::make_shared<const Descriptor>(open_for_reading(path, status));
  if (!S_ISREG(status.st_mode)) {
    throw Error(
        fmt::format("{}: not a file; data paths name shards, for example {}/train_*.bin", path,
                    S_ISDIR(status.st_mode) ? path.substr(0, path.find_last_not_of('/') + 1) : std::string("data/x")));
  }
  files_.push_back({path, static_cast<int64_t>(status.st_size), status.st_mtim});
  opened_.emplace_back();
  const std::lock_guard lock(mutex_);
  keep(static_cast<int64_t>(files_.size()) - 1, std::move(opened));
  return static_cast<int64_t>(files_.size()) - 1;
}

/// With the lock held. Who reads from a descriptor shares it, so that it is closed when they are done.
void ShardFiles::keep(int64_t file, std::shared_ptr<const Descriptor> descriptor) const {
  if (static_cast<int64_t>(order_.size()) == most_open_) {
    opened_[order_.front()].reset();
    order_.pop_front();
  }
  order_.push_back(file);
  opened_[file] = std::move(descriptor);
}

std::shared_ptr<const ShardFiles::Descriptor> ShardFiles::descriptor(int64_t file) const {
  {
    const std::lock_guard lock(mutex_);
    if (opened_[file]) return opened_[file];
  }
  const File& known = files_[file];
  struct stat status {};
  auto opened = std::make_shared<const Descriptor>(open_for_reading(known.path, status));
  const bool same = status.st_size == known.bytes && status.st_mtim.tv_sec == known.modified.tv_sec &&
                    status.st_mtim.tv_nsec == known.modified.tv_nsec;
  if (!same) {
    throw DataError(
        fmt::format("{}: was changed while it was in use: {} bytes now, {} when it was opened first, or written anew; "
                    "put the old file back",
                    known.path, static_cast<int64_t>(status.st_size), known.bytes));
  }
  const std::lock_guard lock(mutex_);
  if (!opened_[file]) keep(file, std::move(opened));  // else another thread was faster
  return opened_[file];
}

void ShardFiles::read(int64_t file, int64_t offset, int64_t count, void* out) const {
  const std::shared_ptr<const Descriptor> from = descriptor(file);
  for (int64_t done = 0; done < count;) {
    const ssize_t got = pread(from->number, static_cast<char*>(out) + done, static_cast<size_t>(count - done),
                              static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      throw DataError(fmt::format("{}: could not read {} bytes at offset {}: {}", path(file), count - done,
                                  offset + done, std::strerror(errno)));
    }
    if (got == 0) {
      throw DataError(
          fmt::format("{}: ends at offset {} or before, but had {} bytes when it was opened: it was shortened "
                      "while it was in use; copy or make it again",
                      path(file), offset + done, bytes(file)));
    }
    done += got;
  }
}

}  // namespace dither
