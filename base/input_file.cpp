#include "base/input_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace dither {

namespace {

class Closing {
 public:
  explicit Closing(int descriptor) : descriptor_(descriptor) {}
  ~Closing() { close(descriptor_); }
  Closing(const Closing&) = delete;
  Closing& operator=(const Closing&) = delete;

 private:
  int descriptor_;
};

const char* type_name(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO or pipe";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  if (S_ISSOCK(mode)) return "a socket";
  return "not a file";
}

/// In the largest unit that divides it.
std::string size_text(int64_t bytes) {
  if (bytes % (1 << 20) == 0) return fmt::format("{} MiB", bytes >> 20);
  if (bytes % (1 << 10) == 0) return fmt::format("{} KiB", bytes >> 10);
  return fmt::format("{} bytes", bytes);
}

std::string read_from(int descriptor, int64_t offset, int64_t most, const std::string& complaint) {
  constexpr int64_t kPiece = 1 << 20;  // memory grows with what is there, not with what the file says
  std::string text;
  while (static_cast<int64_t>(text.size()) < most) {
    const size_t before = text.size();
    const auto wanted = static_cast<size_t>(std::min<int64_t>(kPiece, most - static_cast<int64_t>(before)));
    text.resize(before + wanted);
    const ssize_t count = pread(descriptor, text.data() + before, wanted, offset + static_cast<int64_t>(before));
    const int error = errno;
    text.resize(before + static_cast<size_t>(std::max<ssize_t>(count, 0)));
    if (count == 0) break;
    if (count < 0 && error != EINTR) throw Error(complaint + " cannot be read: " + std::strerror(error));
  }
  return text;
}

}  // namespace

int open_input(const std::string& path, const InputKind& kind, const std::string& complaint) {
  const std::string& who = complaint.empty() ? path : complaint;
  struct stat status = {};
  // Looked at before it is opened too: opening a device may do something.
  if (stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    throw Error(fmt::format("{} is {}, needs {}", who, type_name(status.st_mode), kind.needs));
  }
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (descriptor < 0) throw Error(fmt::format("{} cannot be opened: {}", who, std::strerror(errno)));
  std::string wrong;
  if (fstat(descriptor, &status) != 0) {
    wrong = fmt::format(" cannot be opened: {}", std::strerror(errno));
  } else if (!S_ISREG(status.st_mode)) {
    wrong = fmt::format(" is {}, needs {}", type_name(status.st_mode), kind.needs);
  } else if (kind.most_bytes > 0 && status.st_size > kind.most_bytes) {
    wrong = fmt::format(" is larger than {}: not {} (it has {} bytes)", size_text(kind.most_bytes), kind.name,
                        status.st_size);
  }
  if (wrong.empty()) return descriptor;
  close(descriptor);
  throw Error(who + wrong);
}

std::string read_input(const std::string& path, const InputKind& kind, const std::string& complaint) {
  const std::string& who = complaint.empty() ? path : complaint;
  const int descriptor = open_input(path, kind, complaint);
  const Closing closing(descriptor);
  const int64_t most = kind.most_bytes > 0 ? kind.most_bytes : INT64_MAX - 1;
  std::string text = read_from(descriptor, 0, most + 1, who);  // one more: a file may grow, or not say its size (/proc)
  if (static_cast<int64_t>(text.size()) > most) {
    throw Error(fmt::format("{} is larger than {}: not {}", who, size_text(most), kind.name));
  }
  return text;
}

std::string read_input_from(const std::string& path, const InputKind& kind, int64_t offset, int64_t most_bytes) {
  const int descriptor = open_input(path, kind);
  const Closing closing(descriptor);
  return read_from(descriptor, offset, most_bytes, path);
}

}  // namespace dither
