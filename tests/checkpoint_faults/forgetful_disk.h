// A disk that forgets: every operation happens on the real one, and beside it an image is kept of what a crash of the
// machine could not take away any more. After the processes that wrote were killed, lose_unsynced() turns the real
// folder into one that such a crash may have left.
//
// The image is a folder on the same file system, beside the real one; what is durable is told by file_system.h:
//
//   files/<id>     a hard link to each file that was made through the layer, so that its id, the inode's number, is
//                  never given to another
//   bytes/<id>     the file's bytes as of its last sync(); missing: never synced
//   folders/<id>   the names in a folder, with ids, as of its last sync_folder()
//   attic/<id>     removed folders: they are emptied and moved here, for the same reason as files/
//   lock           held during every operation on names, so that to other processes the operation and its change of the
//                  image are one
//
// Several processes may use one image at once, and be killed anywhere. Records are written under another name and
// renamed. A kill between an operation and its record leaves a state that a crash of the machine could leave too:
//   sync, sync_folder     come first, their record follows. In between the image shows the state before, and that is
//                         allowed until the call has returned, since nobody has been told that it succeeded.
//   create, make_folder   things are made in the image, recorded as never synced, and moved to their place. In between
//                         nothing is to be seen, and afterwards there is a name that no folder has synced.
//   create of a file that exists     it counts as never synced before it is emptied: an operation that had begun.
//   rename, remove        change no record.
//
// What was not made through the layer stays as it is; a folder that was there before is durable. A rename from one
// folder to another is refused with an Error: nobody needs it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "src/checkpoint/file_system.h"

namespace dither {

class ForgetfulDisk final : public FileSystem {
 public:
  /// Makes `image`, an absolute path, where it is missing. What lies outside `real` goes to the disk alone.
  ForgetfulDisk(const std::string& real, const std::string& image);

  std::unique_ptr<OutputFile> create(const std::string& path) override;
  void make_folder(const std::string& path) override;
  void rename(const std::string& from, const std::string& to) override;
  void remove(const std::string& path) override;
  void sync_folder(const std::string& path) override;
  int64_t free_bytes(const std::string& path) override;

 private:
  std::string inside(const std::string& path) const;
  void make_known(const std::string& folder) const;
  void make_new_folder(const std::string& path) const;
  void remove_known(const std::string& path) const;

  const std::string real_, image_;
};

/// What a crash may leave of `real`; the image then says that all of it is durable. Nobody may be using them.
///
/// Seed 0: everything that was not synced is gone. Other seeds draw for each name whether its last change has reached
/// the disk by itself, in any order, and for bytes that were not synced whether they are missing or zeros.
void lose_unsynced(const std::string& real, const std::string& image, uint64_t seed);

}  // namespace dither
