#include "src/training/run_folder.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "base/input_file.h"
#include "src/checkpoint/checkpoint_folder.h"
#include "src/checkpoint/file_system.h"
#include "src/training/metrics.h"  // begins_as_metrics()

namespace dither {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kPartial = ".partial";

constexpr std::string_view kFiles[] = {
    "config.json",     "metrics.jsonl", "log.txt",  "weights.safetensors",
    "algorithms.json", kFolderLockName, "loss.png", "loss.partial.png"};  // scripts/plot_run.py
constexpr std::string_view kFolder = "checkpoints";
constexpr std::string_view kPassing[] = {".rank-0-", ".nfs"};  // begin names of files that go by themselves

/// Whether a run makes something of this name and kind in its folder.
bool is_own(const fs::directory_entry& entry) {
  std::error_code unknown;
  std::string name = entry.path().filename().string();
  if (entry.is_directory(unknown)) return name == kFolder;
  for (const std::string_view begin : kPassing) {
    if (name.rfind(begin, 0) == 0) return true;
  }
  if (name.size() > kPartial.size() && name.compare(name.size() - kPartial.size(), kPartial.size(), kPartial) == 0) {
    name.resize(name.size() - kPartial.size());
  }
  for (const std::string_view file : kFiles) {
    if (name == file) return true;
  }
  return false;
}

/// "" if this is a config that the program can read and has stored: with all keys, not only those that a user writes.
/// Else why it is not.
std::string flaw_of_config(const std::string& path) {
  std::string text;
  std::vector<std::string> warnings;
  try {
    text = read_input(path, kConfigFile);
    parse_config(text, path, {}, warnings);
  } catch (const Error& e) {
    const std::string message = e.what();
    return message.substr(0, message.find('\n'));
  }
  for (const char* key : {"\"seed\"", "\"precision\"", "\"guards\"", "\"logging\""}) {
    if (text.find(key) == std::string::npos) return path + " is not as a run stores it: it has no " + key;
  }
  return "";
}

}  // namespace

RunFolder::RunFolder(const Config& config) : path_(config.logging.directory + "/" + config.name) {}

bool RunFolder::exists() const { return there_is(path_); }
bool RunFolder::holds_run() const {
  if (there_is(config_path()) || begins_as_metrics(metrics_path())) return true;
  return there_is(checkpoints_path()) && !list_checkpoints(checkpoints_path()).empty();  // the config may be lost
}
bool RunFolder::holds_weights() const { return there_is(weights_path()); }

/// Whether a run has made the folder, by what only a run writes.
bool RunFolder::is_runs() const {
  if (there_is(config_path()) && flaw_of_config(config_path()).empty()) return true;
  if (begins_as_metrics(metrics_path())) return true;  // of another version, whose config has other keys
  if (!there_is(checkpoints_path())) return false;
  for (const CheckpointEntry& entry : list_checkpoints(checkpoints_path())) {
    if (there_is(entry.path + "/" + kManifestName)) return true;
  }
  return false;
}

/// The path of something in the folder that no run makes; "" : there is none.
std::string RunFolder::foreign(bool within_checkpoints) const {
  for (const auto& entry : fs::directory_iterator(path_)) {
    if (!is_own(entry)) return path_ + "/" + entry.path().filename().string();
  }
  return within_checkpoints && there_is(checkpoints_path()) ? foreign_in_checkpoints(checkpoints_path()) : "";
}

void RunFolder::check_owner(bool overwrite) const {
  if (!fs::is_directory(path_)) return;  // a file of this name: make_folder() says so
  constexpr const char* kCures = "another name (--set name=...), or move what is to be kept elsewhere";
  const bool runs = is_runs();
  std::string found = runs && !overwrite ? "" : foreign(runs);
  if (!runs) {
    for (const auto& entry : fs::directory_iterator(path_)) {  // a run that died at once has left no more than these
      const bool harmless = entry.path().filename() == kFolderLockName || entry.path().extension() == kPartial;
      if (found.empty() && !harmless) found = entry.path().string();
    }
    if (found.empty()) return;
    const std::string flaw = there_is(config_path()) ? flaw_of_config(config_path()) : "it has no config.json";
    throw Error(fmt::format("{} is not the folder of a run: it contains {}, and {}\n       cures: {}", path_, found,
                            flaw, kCures));
  }
  if (found.empty()) return;
  throw Error(fmt::format("{} holds a run and {}, which no run makes: not overwritten\n       cures: {}", path_, found,
                          kCures));
}

void RunFolder::lock() {
  if (lock_ || !exists()) return;
  const auto refusal = [](const std::string& holder) {
    return holder + " trains there\n       cures: wait for it, or another name (--set name=...)";
  };
  lock_.emplace(path_, FolderLockOptions{.refusal = refusal});
}

void RunFolder::create(const Config& config, bool overwrite) {
  try {
    if (exists()) check_owner(overwrite);
    make_durable_folder(disk(), path_);  // checkpoints are worth nothing in a folder without a name
    lock();
    if (!overwrite && holds_run()) {
      throw Error(path_ +
                  " exists: another run has begun and ended there in the meantime\n       cures: start again to " +
                  "see what it holds, or another name (--set name=...)");
    }
    empty();
  } catch (const fs::filesystem_error& e) {
    throw Error(path_ + ": the run's folder cannot be made: " + e.code().message());
  }
  reopen(config);
}

// The lock stays, and so does the config until another takes its place: who is killed here can begin again.
void RunFolder::empty() {
  check_owner(true);
  lock();
  for (const CheckpointEntry& entry : list_checkpoints(checkpoints_path())) remove_checkpoint(disk(), entry);
  for (const auto& entry : fs::directory_iterator(path_)) {
    const bool stays = entry.path().filename() == kFolderLockName || entry.path() == config_path();
    if (!stays && is_own(entry)) fs::remove_all(entry.path());
  }
}

bool RunFolder::is_lost() const { return !lock_ || (lock_->is_lost() || !there_is(config_path())); }

void RunFolder::restore(const Config& config) {
  lock_.reset();
  make_durable_folder(disk(), path_);
  lock();
  if (there_is(config_path()) && read_input(config_path(), kConfigFile) != to_json(config)) {
    lock_.reset();  // the folder is not this run's: nothing is written there, now or later
    throw Error(path_ + " was removed or moved while this run trained, and another run has begun there");
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
  const std::string partial = path + std::string(kPartial);
  {
    const std::unique_ptr<OutputFile> file = disk().create(partial);
    file->write(text.data(), static_cast<int64_t>(text.size()));
    file->sync();
  }
  disk().rename(partial, path);
  disk().sync_folder(path_);
}

}  // namespace dither
