// A disk on which an operation fails: the n-th of a kind or of any kind, once or from then on.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "src/checkpoint/file_system.h"

namespace dither {

enum class DiskOperation { create, write, sync_file, make_folder, rename, remove, sync_folder, free_bytes };

enum class DiskFailure {
  no_space,           // nothing is done; free_bytes() says 0
  short_write,        // of a write half of the bytes arrive; else as no_space
  permission_denied,  // nothing is done
  folder_vanished,    // Fault::folder is removed with all that is in it, then the operation is tried
};

struct DiskFault {
  DiskFailure failure = DiskFailure::no_space;
  int64_t at = 1;                                   // counted from 1
  std::optional<DiskOperation> operation = {};      // none: all are counted
  bool for_good = false;                            // all later ones of the kind fail too
  int64_t times = 1;                                // so many in a row
  std::string folder = {};                          // that vanishes
  std::string text = "it failed as the test asks";  // of the error
};

class FaultyDisk final : public FileSystem {
 public:
  /// `files` must outlive it.
  FaultyDisk(FileSystem& files, DiskFault fault) : files_(files), fault_(std::move(fault)) {}

  /// Whether an operation has failed, or would have but for its kind of failure.
  bool reached() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return count_ >= fault_.at;
  }

  std::unique_ptr<OutputFile> create(const std::string& path) override {
    begin(DiskOperation::create, path);
    return std::make_unique<File>(*this, files_.create(path), path);
  }
  void make_folder(const std::string& path) override {
    begin(DiskOperation::make_folder, path);
    files_.make_folder(path);
  }
  void rename(const std::string& from, const std::string& to) override {
    begin(DiskOperation::rename, from);
    files_.rename(from, to);
  }
  void remove(const std::string& path) override {
    begin(DiskOperation::remove, path);
    files_.remove(path);
  }
  void sync_folder(const std::string& path) override {
    begin(DiskOperation::sync_folder, path);
    files_.sync_folder(path);
  }
  int64_t free_bytes(const std::string& path) override {
    const bool fails = strikes(DiskOperation::free_bytes);
    if (fails && fault_.failure == DiskFailure::permission_denied) fail(path);
    return fails && fault_.failure != DiskFailure::folder_vanished ? 0 : files_.free_bytes(path);
  }

 private:
  class File final : public OutputFile {
   public:
    File(FaultyDisk& disk, std::unique_ptr<OutputFile> file, std::string path)
        : disk_(disk), file_(std::move(file)), path_(std::move(path)) {}
    void write(const void* data, int64_t bytes) override {
      if (disk_.strikes(DiskOperation::write) && disk_.fault_.failure != DiskFailure::folder_vanished) {
        if (disk_.fault_.failure == DiskFailure::short_write) file_->write(data, bytes / 2);
        disk_.fail(path_);
      }
      file_->write(data, bytes);
    }
    void sync() override {
      disk_.begin(DiskOperation::sync_file, path_);
      file_->sync();
    }

   private:
    FaultyDisk& disk_;
    const std::unique_ptr<OutputFile> file_;
    const std::string path_;
  };

  /// Counts an operation; whether it is one that fails. A folder that shall vanish has done so.
  bool strikes(DiskOperation operation) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (fault_.operation && *fault_.operation != operation) return false;
    ++count_;
    const bool fails = count_ >= fault_.at && (fault_.for_good || count_ < fault_.at + fault_.times);
    if (fails && fault_.failure == DiskFailure::folder_vanished) std::filesystem::remove_all(fault_.folder);
    return fails;
  }
  [[noreturn]] void fail(const std::string& path) const {
    if (fault_.failure == DiskFailure::permission_denied) throw Error(path + ": " + fault_.text);
    throw DiskFull(path + ": " + fault_.text);
  }
  void begin(DiskOperation operation, const std::string& path) {
    if (strikes(operation) && fault_.failure != DiskFailure::folder_vanished) fail(path);
  }

  FileSystem& files_;
  const DiskFault fault_;
  mutable std::mutex mutex_;
  int64_t count_ = 0;
};

}  // namespace dither
