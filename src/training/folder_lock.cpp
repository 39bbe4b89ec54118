// flock() belongs to the open file, not to the process: it ends when the last descriptor of it is closed, by whatever
// end. Opened for writing, since NFS grants an exclusive lock on nothing else.

#include "src/training/folder_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "src/training/signals.h"

namespace dither {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kTick{100};  // between two attempts
constexpr int kMostRenewals = 10;                // of a file without a name: some file systems number files anew
constexpr size_t kLongestHolder = 300;           // a host's name has at most 253 characters

enum class Attempt { held, busy, nameless };

int open_lock(const std::string& path, bool inherited) {
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | (inherited ? 0 : O_CLOEXEC), 0666);
  if (descriptor < 0) throw Error(path + " cannot be opened for writing: " + std::strerror(errno));
  return descriptor;
}

/// Whether the path still names this open file: who deletes a folder's files deletes the lock with them, and a lock on
/// a file without a name keeps nobody away.
bool has_name(int descriptor, const std::string& path) {
  struct stat opened {
  }, named{};
  return fstat(descriptor, &opened) == 0 && stat(path.c_str(), &named) == 0 && opened.st_ino == named.st_ino &&
         opened.st_dev == named.st_dev;
}

Attempt attempt(int descriptor, const std::string& path) {
  int status = 0;
  do {
    status = flock(descriptor, LOCK_EX | LOCK_NB);
  } while (status != 0 && errno == EINTR);
  if (status != 0) return errno == EWOULDBLOCK ? Attempt::busy : Attempt::held;  // no locks here: no harm in going on
  return has_name(descriptor, path) ? Attempt::held : Attempt::nameless;
}

/// For the message of the next one who comes; where it cannot be written, that one has less to say.
void sign(int descriptor) {
  std::array<char, kLongestHolder> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) std::strcpy(host.data(), "an unknown host");
  const std::string text = fmt::format("pid {} on {}\n", getpid(), host.data());
  if (ftruncate(descriptor, 0) == 0) (void)!pwrite(descriptor, text.data(), text.size(), 0);
}

/// The first line of the file; whoever holds it may not have written it yet.
std::string holder(int descriptor) {
  std::array<char, kLongestHolder> text{};
  const ssize_t bytes = pread(descriptor, text.data(), text.size(), 0);
  const std::string whole(text.data(), bytes > 0 ? static_cast<size_t>(bytes) : 0);
  const std::string line = whole.substr(0, whole.find('\n'));
  return line.empty() ? "another process" : line;
}

}  // namespace

FolderLock::FolderLock(const std::string& folder, const FolderLockOptions& options)
    : path_(folder + "/" + kFolderLockName), descriptor_(-1), inherited_(options.inherited) {
  const auto patience = std::chrono::duration<double>(options.patience_seconds);
  const Clock::time_point begin = Clock::now();
  for (int renewals = 0;;) {
    if (descriptor_ < 0) descriptor_ = open_lock(path_, inherited_);
    const Attempt result = attempt(descriptor_, path_);
    if (result == Attempt::held || (result == Attempt::nameless && renewals == kMostRenewals)) {
      keeps_inode_ = result == Attempt::held;
      break;
    }
    if (result == Attempt::busy && Clock::now() - begin < patience && StopSignals::received() == 0) {
      std::this_thread::sleep_for(kTick);
      continue;
    }
    const std::string other = holder(descriptor_);
    close(descriptor_);
    descriptor_ = -1;
    if (result == Attempt::busy) throw Error(folder + " is in use: " + options.refusal(other));
    ++renewals;
  }
  sign(descriptor_);
}

bool FolderLock::is_lost() const {
  return keeps_inode_ ? !has_name(descriptor_, path_) : access(path_.c_str(), F_OK) != 0;
}

FolderLock::~FolderLock() {
  // Nobody's any more, unless a program that was started holds it still.
  if (!inherited_) (void)!ftruncate(descriptor_, 0);
  close(descriptor_);
}

}  // namespace dither
