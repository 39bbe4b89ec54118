// Files that are read by offset while a run lasts: a read that fails is an Error, where a memory map would end the
// process with SIGBUS.
#pragma once

#include <cstdint>
#include <ctime>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/error.h"

namespace dither {

/// Tokens that cannot be had: a file that is gone, shortened or not readable, or ids that must not be there. Nothing of
/// the step that asked for them has been applied.
class DataError : public Error {
 public:
  using Error::Error;
};

/// Regular files, opened for reading. A corpus may have more files than a process may hold open: the latest are kept
/// open, the others are opened again when they are read. read() may be called from several threads at once.
class ShardFiles {
 public:
  /// At most `most_open` files are held open; 0: a quarter of the process's limit (RLIMIT_NOFILE), since a run has two
  /// corpora and other uses for its descriptors.
  explicit ShardFiles(int64_t most_open = 0);

  /// Opens one more file; returns its number, counted from 0. Throws Error: no permission, not a regular file. Does not
  /// wait for the writer of a pipe.
  int64_t add(const std::string& path);

  const std::string& path(int64_t file) const { return files_[file].path; }
  int64_t bytes(int64_t file) const { return files_[file].bytes; }  // when it was added

  /// Copies bytes [offset, offset + count) to `out`. Throws DataError naming file and offset: the disk refuses, the
  /// file has become shorter, or was exchanged before it was opened again.
  void read(int64_t file, int64_t offset, int64_t count, void* out) const;

 private:
  struct Descriptor;
  struct File {
    std::string path;
    int64_t bytes;
    timespec modified;
  };
  std::shared_ptr<const Descriptor> descriptor(int64_t file) const;
  void keep(int64_t file, std::shared_ptr<const Descriptor> descriptor) const;

  const int64_t most_open_;
  std::vector<File> files_;
  mutable std::mutex mutex_;                                       // guards what follows
  mutable std::vector<std::shared_ptr<const Descriptor>> opened_;  // of each file; null: closed
  mutable std::deque<int64_t> order_;                              // of the open files, the first opened first
};

}  // namespace dither
