// A run's folder, runs/<name>/: config.json (resolved), metrics.jsonl, log.txt, weights.safetensors, and on
// CUDA algorithms.json.
#pragma once

#include <string>

#include "src/config/config.h"

namespace dither {

class RunFolder {
 public:
  /// Makes nothing yet; throws Error if the folder exists and `overwrite` is not given.
  RunFolder(const Config& config, bool overwrite);

  /// Makes the folder (an earlier one is deleted) and writes config.json. Throws Error when the disk refuses.
  void create(const Config& config) const;

  const std::string& path() const { return path_; }
  std::string metrics_path() const { return path_ + "/metrics.jsonl"; }
  std::string log_path() const { return path_ + "/log.txt"; }
  std::string weights_path() const { return path_ + "/weights.safetensors"; }

  /// Keeps the table of algorithms that the run's products used, as algorithms.json; "" : there is none.
  void keep_algorithms(const std::string& json) const;

 private:
  std::string path_;
};

}  // namespace dither
