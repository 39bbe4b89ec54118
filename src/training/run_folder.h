// A run's folder, runs/<name>/: config.json (resolved), metrics.jsonl, log.txt, checkpoints/, weights.safetensors, and
// on CUDA algorithms.json. One process at a time works in it (folder_lock.h).
//
// Nothing but these names is ever removed, and only in a folder that a run has made: one with a config.json as a
// run stores it, a checkpoint, or a metrics.jsonl that begins as a run's.
#pragma once

#include <optional>
#include <string>

#include "src/config/config.h"
#include "src/training/folder_lock.h"

namespace dither {

class RunFolder {
 public:
  /// Touches nothing.
  explicit RunFolder(const Config& config);

  bool exists() const;
  /// Whether a run has begun here.
  bool holds_run() const;
  bool holds_weights() const;
  std::string weights_path() const { return path_ + "/weights.safetensors"; }
  std::string config_path() const { return path_ + "/config.json"; }
  std::string metrics_path() const { return path_ + "/metrics.jsonl"; }
  std::string log_path() const { return path_ + "/log.txt"; }
  std::string checkpoints_path() const { return path_ + "/checkpoints"; }
  const std::string& path() const { return path_; }

  /// Throws Error where the folder is not a run's; with `overwrite` also where it contains something that no run makes,
  /// and names it. A folder that does not exist or is empty is nobody's. Changes nothing.
  void check_owner(bool overwrite) const;
  /// Keeps other runs out for as long as this lives. Where the folder exists. Throws Error when one is at work in it.
  void lock();
  /// Makes the folder and locks it; what an earlier run has left is deleted if `overwrite`. Throws Error when the disk
  /// refuses, where check_owner() does, and for another run's without `overwrite`.
  void create(const Config& config, bool overwrite);
  /// Goes on in the folder, with this config.
  void reopen(const Config& config);
  /// Locks the folder and deletes what a run has left in it, but for config.json. Throws Error where check_owner(true)
  /// does, or when the disk refuses.
  void empty();

  /// Whether the folder that this run has made or reopened is no longer there, or its config.json or lock; also when
  /// restore() has failed.
  bool is_lost() const;
  /// Makes it again. Throws Error when another run has begun there, or the disk refuses.
  void restore(const Config& config);

  /// Keeps the table of algorithms that the run's products used, as algorithms.json; "" : there is none.
  void keep_algorithms(const std::string& json) const;

 private:
  bool is_runs() const;
  std::string foreign(bool within_checkpoints) const;
  void write(const std::string& path, const std::string& text) const;
  std::string path_;
  std::optional<FolderLock> lock_;
};

}  // namespace dither
