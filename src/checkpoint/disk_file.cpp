#include "src/checkpoint/disk_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "base/error.h"

namespace dither {

namespace {

constexpr size_t kPieceBytes = size_t{16} << 20;  // of one system call: many blocks for the disk to work on at once

[[noreturn]] void fail(const std::string& path, const char* action) { fail_on_disk(path, action, errno); }

/// Opens for direct access, or without it where the file system does not offer it.
int open_direct(const std::string& path, int flags, bool& direct) {
  int descriptor = direct ? open(path.c_str(), flags | O_DIRECT, 0666) : -1;
  if (descriptor >= 0 || (direct && errno != EINVAL)) return descriptor;
  direct = false;
  return open(path.c_str(), flags, 0666);
}

/// From now on through the page cache. False where it was so already.
bool leave_direct(int descriptor, bool& direct) {
  if (!direct) return false;
  direct = false;
  const int flags = fcntl(descriptor, F_GETFL);
  return flags >= 0 && fcntl(descriptor, F_SETFL, flags & ~O_DIRECT) == 0;
}

size_t whole_blocks(size_t bytes) { return bytes / AlignedMemory::kAlignment * AlignedMemory::kAlignment; }

}  // namespace

AlignedMemory::AlignedMemory(size_t bytes) : memory_(std::aligned_alloc(kAlignment, bytes)) {
  if (!memory_) throw std::bad_alloc();
}

DiskOutputFile::DiskOutputFile(const std::string& path) : path_(path), piece_(kPieceBytes) {
  descriptor_ = open_direct(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, direct_);
  if (descriptor_ < 0) fail(path, "be created");
}

DiskOutputFile::~DiskOutputFile() {
  try {
    flush();
  } catch (const Error&) {  // who wants to know calls sync()
  }
  close(descriptor_);
}

void DiskOutputFile::write(const void* data, int64_t bytes) {
  const char* next = static_cast<const char*>(data);
  for (auto left = static_cast<size_t>(bytes); left > 0;) {
    const size_t count = std::min(left, kPieceBytes - filled_);
    std::memcpy(piece_.data() + filled_, next, count);
    filled_ += count;
    next += count;
    left -= count;
    if (filled_ < kPieceBytes) continue;
    put(piece_.data(), filled_);
    filled_ = 0;
  }
}

void DiskOutputFile::sync() {
  flush();
  if (fsync(descriptor_) != 0) fail(path_, "be synced");
}

void DiskOutputFile::flush() {
  const size_t blocks = whole_blocks(filled_);
  put(piece_.data(), blocks);
  if (filled_ > blocks) {
    leave_direct(descriptor_, direct_);
    put(piece_.data() + blocks, filled_ - blocks);
  }
  filled_ = 0;
}

// Less is written than was asked for on a disk that is nearly full: the rest may no longer begin at a block.
void DiskOutputFile::put(const char* data, size_t bytes) {
  while (bytes > 0) {
    const ssize_t written = ::write(descriptor_, data, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EINVAL && leave_direct(descriptor_, direct_)) continue;
    if (written < 0) fail(path_, "be written");
    data += written;
    bytes -= static_cast<size_t>(written);
  }
}

DiskInputFile::DiskInputFile(const std::string& path, ReadFrom from) : path_(path), direct_(from == ReadFrom::disk) {
  struct stat status = {};
  if (stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) throw Error(path + ": not a file");  // a FIFO waits
  descriptor_ = open_direct(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, direct_);
  if (descriptor_ < 0) fail(path, "be opened");
  if (fstat(descriptor_, &status) != 0) {
    const int error = errno;
    close(descriptor_);
    errno = error;
    fail(path, "be looked at");
  }
  bytes_ = status.st_size;
  // Where direct access is not to be had: what the system holds of it goes, unless it is being written. A wish.
  if (from == ReadFrom::disk && !direct_) posix_fadvise(descriptor_, 0, 0, POSIX_FADV_DONTNEED);
}

DiskInputFile::~DiskInputFile() { close(descriptor_); }

std::string_view DiskInputFile::next() {
  if (read_ >= bytes_) return {};
  const size_t most = std::min(kPieceBytes, whole_blocks(static_cast<size_t>(bytes_)) + AlignedMemory::kAlignment);
  if (!piece_) piece_ = std::make_unique<AlignedMemory>(most);
  ssize_t count = 0;
  do {
    count = ::read(descriptor_, piece_->data(), most);
  } while (count < 0 && (errno == EINTR || (errno == EINVAL && leave_direct(descriptor_, direct_))));
  if (count < 0) fail(path_, "be read");
  read_ = count == 0 ? bytes_ : read_ + count;  // somebody has cut it
  return {piece_->data(), static_cast<size_t>(count)};
}

}  // namespace dither
