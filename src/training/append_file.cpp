// Written by write(2) alone: a stream would not say how many bytes a full disk has taken.

#include "src/training/append_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>  // move

#include "base/error.h"

namespace dither {

namespace {

int open_to_append(const std::string& path, int flags) {
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | flags, 0666);
  if (descriptor < 0) throw Error(path + " cannot be opened for writing: " + std::strerror(errno));
  struct stat status {};
  if (fstat(descriptor, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode))) {
    close(descriptor);
    throw Error(path + " is a FIFO or a socket, needs a file");
  }
  return descriptor;
}

/// Returns "" and leaves `text` empty when all is written; else why not, and `text` is what is left.
std::string write_all(int descriptor, std::string& text) {
  size_t written = 0;
  std::string refusal;
  while (written < text.size() && refusal.empty()) {
    const ssize_t bytes = write(descriptor, text.data() + written, text.size() - written);
    if (bytes > 0) {
      written += static_cast<size_t>(bytes);
    } else if (bytes == 0 || errno != EINTR) {
      refusal = bytes == 0 ? "the system takes no bytes" : std::strerror(errno);
    }
  }
  text.erase(0, written);
  return refusal;
}

/// Copies the whole of one file to the end of another; "" or why that cannot be written. What cannot be read any more
/// (a file that another machine has removed, over NFS) is lost, and must not keep back what follows.
std::string copy_all(int from, int to) {
  std::array<char, 1 << 16> piece{};
  for (off_t done = 0;;) {
    const ssize_t bytes = pread(from, piece.data(), piece.size(), done);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) return "";
    std::string text(piece.data(), static_cast<size_t>(bytes));
    std::string refusal = write_all(to, text);
    if (!refusal.empty()) return refusal;
    done += bytes;
  }
}

}  // namespace

AppendFile::AppendFile(std::string path) : path_(std::move(path)), descriptor_(open_to_append(path_, 0)) {
  char last = '\n';
  const off_t size = lseek(descriptor_, 0, SEEK_END);
  if (size > 0 && (pread(descriptor_, &last, 1, size - 1) != 1 || last != '\n')) unwritten_ = "\n";
}

AppendFile::~AppendFile() { close(descriptor_); }

// A write may end short, in the middle of a line: the next one goes on with the byte that follows.
std::string AppendFile::append(std::string_view text) {
  unwritten_ += text;
  return write_all(descriptor_, unwritten_);
}

std::string AppendFile::sync() const {
  return fsync(descriptor_) == 0 ? "" : path_ + " cannot be synced: " + std::strerror(errno);
}

bool AppendFile::is_lost() const { return access(path_.c_str(), F_OK) != 0 && errno == ENOENT; }

// The open file still has what was written, removed or not. The descriptor keeps its number: another thread may sync.
void AppendFile::restore() {
  const int renewed = open_to_append(path_, O_EXCL);
  std::string refusal = copy_all(descriptor_, renewed);
  if (refusal.empty() && dup3(renewed, descriptor_, O_CLOEXEC) < 0) refusal = std::strerror(errno);
  close(renewed);
  if (refusal.empty()) return;
  unlink(path_.c_str());  // so that the next attempt begins anew
  throw Error(path_ + " was removed and cannot be written again: " + refusal);
}

}  // namespace dither
