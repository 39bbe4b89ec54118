// What the writing of checkpoints asks of a disk. The tests put other disks in its place: full ones, slow ones, and one
// that loses whatever was not synced.
//
// What is durable, that is: survives a crash of the machine? A file's bytes after its sync(); a name in a folder (made,
// renamed or removed) after sync_folder() of that folder. Nothing else may be relied on.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/error.h"

namespace dither {

/// What a full disk or an exhausted quota causes: it may pass.
class DiskFull : public Error {
 public:
  using Error::Error;
};

/// Throws DiskFull where `error` (of errno) says so, else Error: "<path>: cannot <action>: <reason>".
[[noreturn]] void fail_on_disk(const std::string& path, const std::string& action, int error);

/// A file being written. Its destructor closes it; whether all of it has reached the disk only sync() says.
class OutputFile {
 public:
  virtual ~OutputFile() = default;
  /// Appends. Throws Error when not all bytes could be written; some may be held back until sync().
  virtual void write(const void* data, int64_t bytes) = 0;
  /// Returns when all bytes are on the disk. Throws Error.
  virtual void sync() = 0;
};

/// Every method throws Error with the path, what was tried and the system's reason. From any thread.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  /// A new file; one of that name is emptied.
  virtual std::unique_ptr<OutputFile> create(const std::string& path) = 0;
  /// With the folders above it; no error where it exists.
  virtual void make_folder(const std::string& path) = 0;
  virtual void rename(const std::string& from, const std::string& to) = 0;
  /// A file, or a folder with everything in it; no error where there is none.
  virtual void remove(const std::string& path) = 0;
  /// A file system that cannot do this is worth a warning (take_warning()), no error.
  virtual void sync_folder(const std::string& path) = 0;
  /// What a user without privileges may still write there; below 0: the file system does not say.
  virtual int64_t free_bytes(const std::string& path) = 0;
  /// What this file system cannot do, each thing once, since the last call; "" : nothing new.
  virtual std::string take_warning() { return ""; }
};

/// The machine's own.
FileSystem& disk();

/// Whether something has this name there. What cannot be looked at counts as absent: using it says why.
bool there_is(const std::string& path);

/// Makes a folder, with those above it, and syncs where their names are: it outlives a crash of the machine.
void make_durable_folder(FileSystem& files, const std::string& path);

}  // namespace dither
