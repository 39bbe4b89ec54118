#include "src/training/run_folder.h"

#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace dither {

namespace fs = std::filesystem;

namespace {

bool there_is(const std::string& path) {
  std::error_code unknown;  // what cannot be looked at shows when it is used
  return fs::exists(path, unknown);
}

}  // namespace

RunFolder::RunFolder(const Config& config) : path_(config.logging.directory + "/" + config.name) {}

bool RunFolder::exists() const { return there_is(path_); }
bool RunFolder::holds_run() const { return there_is(config_path()); }
bool RunFolder::holds_weights() const { return there_is(weights_path()); }

void RunFolder::lock() {
  if (lock_ || !exists()) return;
  const auto refusal = [](const std::string& holder) {
    return holder + " trains there\n       cures: wait for it, or another name (--set name=...)";
  };
  lock_.emplace(path_, FolderLockOptions{.refusal = refusal});
}

// Only a folder that a run made is emptied: whatever else bears the name is the user's own. The lock stays.
void RunFolder::create(const Config& config) {
  try {
    if (exists() && !holds_run()) {
      for (const auto& entry : fs::directory_iterator(path_)) {
        if (entry.path().filename() == kFolderLockName) continue;
        throw Error(path_ + " is not the folder of a run (it has no config.json): not overwritten");
      }
    }
    fs::create_directories(path_);
    lock();
    for (const auto& entry : fs::directory_iterator(path_)) {
      if (entry.path().filename() != kFolderLockName) fs::remove_all(entry.path());
    }
  } catch (const fs::filesystem_error& e) {
    throw Error(path_ + ": the run's folder cannot be made: " + e.code().message());
  }
  reopen(config);
}

void RunFolder::reopen(const Config& config) {
  lock();
  write(config_path(), to_json(config));
}

void RunFolder::keep_algorithms(const std::string& json) const {
  if (!json.empty()) write(path_ + "/algorithms.json", json);
}

/// Whole or not at all: a run that is killed here can still be resumed.
void RunFolder::write(const std::string& path, const std::string& text) const {
  const std::string partial = path + ".partial";
  std::ofstream file(partial);
  file << text;
  file.close();
  std::error_code failed;
  if (file) fs::rename(partial, path, failed);
  if (!file || failed) throw Error(path + " cannot be written: is the disk full?");
}

}  // namespace dither
