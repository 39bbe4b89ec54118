// One process at a time in a folder: two writers of one run would mix. The lock is the kernel's, on the file `lock` in
// the folder, so that whoever is killed leaves none behind; the file stays, and says who holds it.
#pragma once

#include <functional>
#include <string>

namespace dither {

constexpr const char* kFolderLockName = "lock";

struct FolderLockOptions {
  /// What a refusal says behind "<folder> is in use: ", cures included, of a holder such as "pid 1234 on node7".
  std::function<std::string(const std::string& holder)> refusal;
  double patience_seconds = 0;  // to wait for another holder; a signal (StopSignals) ends the wait
  bool inherited = false;       // programs that this one starts hold the lock too, until the last of them ends
};

class FolderLock {
 public:
  /// Needs the folder. Throws Error when another process holds it, or the file cannot be opened. A file system that has
  /// no locks refuses nobody.
  FolderLock(const std::string& folder, const FolderLockOptions& options);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  /// Whether the file that is locked was removed, or its folder: then nobody is kept out any more.
  bool is_lost() const;

 private:
  const std::string path_;
  int descriptor_;
  const bool inherited_;
  bool keeps_inode_ = true;  // false: a file system that gives the same file another inode each time
};

}  // namespace dither
