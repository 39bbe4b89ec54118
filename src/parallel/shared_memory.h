// Memory that the processes of one node share, and a barrier among them: what the "host" transport stands on.
//
// The object has a name in /dev/shm only until all have attached; then it lives as long as somebody has it mapped, and
// whatever way the processes end nothing stays behind. A job that is killed before that leaves the name, which bears
// the process's number, to be removed by hand. Rank 0 makes it, with all its pages, so that a full /dev/shm is an Error
// here and not a SIGBUS at some later write.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace dither {

class SharedMemory {
 public:
  /// All ranks below `size` call it with the same arguments and return when all have attached, or throw Error after
  /// `seconds`. `name`: letters, digits, '-', '_' and '.', unlike any other on this node; rank 0 makes it up and tells
  /// the others.
  SharedMemory(const std::string& name, int rank, int size, int64_t bytes, double seconds);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  /// Zero at first; on a page of its own.
  std::byte* memory() const;
  /// Returns when all ranks have called it as often. What they wrote before is then seen by all. Waits asleep.
  void barrier();

 private:
  struct Header;
  void create(const std::string& path);
  void attach(const std::string& path, double deadline);
  void map(int file);

  const int size_;
  const int64_t total_bytes_;
  const uint64_t token_;
  Header* header_ = nullptr;
};

}  // namespace dither
