// Large files to and from the disk, past the page cache where the file system offers it (O_DIRECT).
//
// Why: a checkpoint is written once and rarely read. Through the page cache it pushes out what training reads, needs as
// much memory again, and keeps a core busy with copies in the kernel: on two cores a step beside the writing of 1.7 GB
// took twice its time, directly to the disk 8 % more (docs/results/checkpoints.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>  // free
#include <memory>
#include <string>
#include <string_view>

#include "src/checkpoint/file_system.h"

namespace dither {

/// Whence files are read: from memory where the system still holds them there, or from the disk where it lets us ask.
enum class ReadFrom { cache, disk };

/// Memory that direct reads and writes may use.
class AlignedMemory {
 public:
  static constexpr size_t kAlignment = 4096;  // of memory, offsets and sizes: no disk's blocks are larger
  explicit AlignedMemory(size_t bytes);       // a multiple of it; throws std::bad_alloc
  char* data() const { return static_cast<char*>(memory_.get()); }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
};

/// A new file. Bytes are collected and written in large pieces; those behind the last whole block go through the page
/// cache, when it is synced or closed.
class DiskOutputFile final : public OutputFile {
 public:
  explicit DiskOutputFile(const std::string& path);
  ~DiskOutputFile() override;
  DiskOutputFile(const DiskOutputFile&) = delete;
  DiskOutputFile& operator=(const DiskOutputFile&) = delete;

  void write(const void* data, int64_t bytes) override;
  void sync() override;

 private:
  void flush();
  void put(const char* data, size_t bytes);

  const std::string path_;
  int descriptor_ = -1;
  bool direct_ = true;
  AlignedMemory piece_;
  size_t filled_ = 0;
};

/// A file read once, from its first byte to its last.
class DiskInputFile {
 public:
  /// Throws Error, as all of these do, naming the path and what the system says.
  DiskInputFile(const std::string& path, ReadFrom from);
  ~DiskInputFile();
  DiskInputFile(const DiskInputFile&) = delete;
  DiskInputFile& operator=(const DiskInputFile&) = delete;

  int64_t bytes() const { return bytes_; }  // when it was opened
  /// The bytes that follow, valid until the next call; none at the end.
  std::string_view next();

 private:
  const std::string path_;
  int descriptor_ = -1;
  bool direct_ = false;
  int64_t bytes_ = 0, read_ = 0;
  std::unique_ptr<AlignedMemory> piece_;
};

}  // namespace dither
