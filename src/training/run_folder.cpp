#include "src/training/run_folder.h"

#include <filesystem>
#include <memory>

#include "base/error.h"
#include "src/checkpoint/checkpoint_folder.h"
#include "src/checkpoint/file_system.h"

namespace dither {

namespace fs = std::filesystem;

namespace {

constexpr const char* kPartial = ".partial";

}  // namespace

RunFolder::RunFolder(const Config& config) : path_(config.logging.directory + "/" + config.name) {}

bool RunFolder::exists() const { return there_is(path_); }
bool RunFolder::holds_run() const {
  return there_is(config_path()) || (there_is(checkpoints_path()) &&
                                     !list_checkpoints(checkpoints_path()).empty());  // somebody may lose the first
}
bool RunFolder::holds_weights() const { return there_is(weights_path()); }

void RunFolder::lock() {
  if (lock_ || !exists()) return;
  const auto refusal = [](const std::string& holder) {
    return holder + " trains there\n       cures: wait for it, or another name (--set name=...)";
  };
  lock_.emplace(path_, FolderLockOptions{.refusal = refusal});
}

// Only a folder that a run made is emptied: whatever else bears the name is the user's own. The lock stays, and so does
// the config until another takes its place: who is killed here can begin again.
void RunFolder::create(const Config& config, bool overwrite) {
  try {
    if (exists() && !there_is(config_path())) {
      for (const auto& entry : fs::directory_iterator(path_)) {  // a run that died at once has left no more than these
        const std::string name = entry.path().filename().string();
        if (name == kFolderLockName || path_ + "/" + name == config_path() + kPartial) continue;
        throw Error(path_ + " is not the folder of a run (it has no config.json): not overwritten");
      }
    }
    make_durable_folder(disk(), path_);  // checkpoints are worth nothing in a folder without a name
    lock();
    if (!overwrite && holds_run()) {
      throw Error(path_ +
                  " exists: another run has begun and ended there in the meantime\n       cures: start again to " +
                  "see what it holds, or another name (--set name=...)");
    }
    for (const CheckpointEntry& entry : list_checkpoints(checkpoints_path())) remove_checkpoint(disk(), entry);
    for (const auto& entry : fs::directory_iterator(path_)) {
      if (entry.path().filename() != kFolderLockName && entry.path() != config_path()) fs::remove_all(entry.path());
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

/// Whole or not at all, and durable: a run that is killed here, or loses its machine, can still be resumed.
void RunFolder::write(const std::string& path, const std::string& text) const {
  const std::string partial = path + kPartial;
  {
    const std::unique_ptr<OutputFile> file = disk().create(partial);
    file->write(text.data(), static_cast<int64_t>(text.size()));
    file->sync();
  }
  disk().rename(partial, path);
  disk().sync_folder(path_);
}

}  // namespace dither
