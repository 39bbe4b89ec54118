// The folder runs/<name>/checkpoints: what lies in it, how a checkpoint gets in, and how it goes.
//
//   step-00001000            whole: only a finished one ever has this name
//   step-00002000.partial    being written, or left behind by a run that died; nobody reads it
//   step-00000500.removed    on its way out; nobody reads it
//
// In: make .partial; every rank writes and syncs its file there; rank 0 writes and syncs manifest.json, syncs .partial,
// renames it, syncs the folder. Out: rename, sync the folder, delete.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "src/checkpoint/disk_file.h"  // ReadFrom
#include "src/checkpoint/file_system.h"
#include "src/checkpoint/manifest.h"

namespace dither {

/// A finished checkpoint, by its name.
struct CheckpointEntry {
  int64_t step;
  std::string path;
};

constexpr const char* kManifestName = "manifest.json";
constexpr std::string_view kPartialEnd = ".partial", kRemovedEnd = ".removed";  // of names that nobody reads

std::string checkpoint_name(int64_t step);  // "step-00001000"
std::string shard_name(int64_t rank);       // "rank-00002.safetensors"

/// Finished checkpoints in `folder`, by rising step; none where the folder is missing. Throws Error when it cannot be
/// read.
std::vector<CheckpointEntry> list_checkpoints(const std::string& folder);

/// Throws Error naming the file and what is wrong with it, also where a folder called step-N holds another step.
Manifest read_manifest(const std::string& checkpoint);

/// Reads every file that `manifest` lists with index % parts == part, and holds size and checksum against it. Throws
/// Error naming the first file that is missing or damaged. `progress` is called now and then.
void verify_shards(const std::string& checkpoint, const Manifest& manifest, ReadFrom from, int64_t part = 0,
                   int64_t parts = 1, const std::function<void()>& progress = {});

/// A checkpoint on its way.
class NewCheckpoint {
 public:
  /// `path`: what it will be called.
  NewCheckpoint(FileSystem& files, const std::string& path);
  /// Where ranks write their files.
  const std::string& partial() const { return partial_; }
  /// Its path once it is finished.
  const std::string& path() const { return path_; }

  /// Makes the partial folder, empty; needs `bytes` of free space. Throws Error.
  void begin(int64_t bytes);
  /// All files are in it and synced: the manifest, and the name. A finished checkpoint of the same step is replaced:
  /// a run that passed over it because it is damaged has come to its step again.
  void commit(const Manifest& manifest);
  /// Removes what there is of it. Does not throw: what cannot be removed stays, and begin() of a later attempt removes
  /// it.
  void discard() noexcept;

 private:
  FileSystem& files_;
  const std::string folder_, path_, partial_;
};

/// Which of these (by rising step) have had their time: all but the `keep_last` newest and those whose step is a
/// multiple of `keep_every` (0: none).
std::vector<CheckpointEntry> outdated(const std::vector<CheckpointEntry>& entries, int64_t keep_last,
                                      int64_t keep_every);

/// The path of something in `folder` that no run puts into its folder of checkpoints, or into a checkpoint; "" where
/// there is none. Throws Error when a folder cannot be read.
std::string foreign_in_checkpoints(const std::string& folder);

/// Takes a finished checkpoint away, so that it is never seen half gone. Throws Error.
void remove_checkpoint(FileSystem& files, const CheckpointEntry& entry);

/// Deletes what a run that died has left: checkpoints' names with .partial and .removed. Throws Error.
void remove_leftovers(FileSystem& files, const std::string& folder);

}  // namespace dither
