#include "src/training/run_folder.h"

#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace dither {

namespace fs = std::filesystem;

RunFolder::RunFolder(const Config& config, bool overwrite) : path_(config.logging.directory + "/" + config.name) {
  if (overwrite || !fs::exists(path_)) return;
  throw Error(path_ + " exists: it holds an earlier run\n       cures: --set name=..., --overwrite, or remove it");
}

// Only a folder that a run made is deleted: whatever else bears the name is the user's own.
void RunFolder::create(const Config& config) const {
  try {
    if (fs::exists(path_)) {
      if (!fs::is_empty(path_) && !fs::exists(path_ + "/config.json")) {
        throw Error(path_ + " is not the folder of a run (it has no config.json): not overwritten");
      }
      fs::remove_all(path_);
    }
    fs::create_directories(path_);
  } catch (const fs::filesystem_error& e) {
    throw Error(path_ + ": the run's folder cannot be made: " + e.code().message());
  }
  std::ofstream file(path_ + "/config.json");
  file << to_json(config);
  file.close();
  if (!file) throw Error(path_ + "/config.json cannot be written: is the disk full?");
}

void RunFolder::keep_algorithms(const std::string& json) const {
  if (json.empty()) return;
  const std::string path = path_ + "/algorithms.json";
  std::ofstream file(path);
  file << json;
  file.close();
  if (!file) throw Error(path + " cannot be written: is the disk full?");
}

}  // namespace dither
