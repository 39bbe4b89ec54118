// A run's folder, runs/<name>/: config.json (resolved), metrics.jsonl, log.txt, checkpoints/, weights.safetensors, and
// on CUDA algorithms.json. One process at a time works in it (folder_lock.h).
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

  /// Keeps other runs out for as long as this lives. Where the folder exists. Throws Error when one is at work in it.
  void lock();
  /// Makes the folder and locks it; what an earlier run has left is deleted if `overwrite`. Throws Error when the disk
  /// refuses, for a folder that is no run's (it has no config.json), and for another run's without `overwrite`.
  void create(const Config& config, bool overwrite);
  /// Goes on in the folder, with this config.
  void reopen(const Config& config);

  /// Keeps the table of algorithms that the run's products used, as algorithms.json; "" : there is none.
  void keep_algorithms(const std::string& json) const;

 private:
  void write(const std::string& path, const std::string& text) const;
  std::string path_;
  std::optional<FolderLock> lock_;
};

}  // namespace dither
