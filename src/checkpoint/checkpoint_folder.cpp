#include "src/checkpoint/checkpoint_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <memory>
#include <string_view>
#include <system_error>
#include <vector>

#include "base/checksum.h"
#include "base/error.h"
#include "src/checkpoint/consolidate.h"  // kConsolidatedName

namespace dither {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-";
constexpr size_t kLeastDigits = 8;
constexpr int64_t kLargestManifest = int64_t{256} << 20;  // bytes; thousands of ranks take some MiB
constexpr int64_t kSpareBytes = int64_t{1} << 20;         // for the manifest, headers and the file system's own records

/// The step in the name of a finished checkpoint; -1: another name.
int64_t step_of(const std::string& name) {
  if (name.rfind(kPrefix, 0) != 0) return -1;
  int64_t step = -1;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  return error == std::errc() && stop == end && step >= 0 && checkpoint_name(step) == name ? step : -1;
}

/// Whether this is the name of a checkpoint that is not finished, or being removed.
bool is_leftover(const std::string& name) {
  for (const std::string_view end : {kPartialEnd, kRemovedEnd}) {
    const size_t whole = name.size() - std::min(name.size(), end.size());
    if (name.compare(whole, end.size(), end) == 0 && step_of(name.substr(0, whole)) >= 0) return true;
  }
  return false;
}

bool is_shard_name(const std::string& name) {
  constexpr std::string_view kBegin = "rank-", kEnd = ".safetensors";
  if (name == kConsolidatedName) return true;
  if (name.size() <= kBegin.size() + kEnd.size() || name.rfind(kBegin, 0) != 0) return false;
  const std::string rank = name.substr(kBegin.size(), name.size() - kBegin.size() - kEnd.size());
  return name.compare(name.size() - kEnd.size(), kEnd.size(), kEnd) == 0 &&
         rank.find_first_not_of("0123456789") == std::string::npos;
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code failed;
  fs::directory_iterator entry(folder, failed), end;
  if (failed == std::errc::no_such_file_or_directory) return names;
  for (; !failed && entry != end; entry.increment(failed)) names.push_back(entry->path().filename().string());
  if (failed) throw Error(folder + " cannot be read: " + failed.message());
  return names;
}

void verify_shard(const std::string& path, const ShardRecord& record, ReadFrom from,
                  const std::function<void()>& progress) {
  DiskInputFile file(path, from);
  if (file.bytes() != record.bytes) {
    throw Error(fmt::format("{}: it has {} bytes, {} says {}", path, file.bytes(), kManifestName, record.bytes));
  }
  Checksum checksum;
  for (std::string_view piece = file.next(); !piece.empty(); piece = file.next()) {
    checksum.add(piece.data(), piece.size());
    if (progress) progress();
  }
  if (checksum.value() != record.checksum) {
    throw Error(fmt::format("{}: its XXH3 is {}, {} says {}", path, checksum_text(checksum.value()), kManifestName,
                            checksum_text(record.checksum)));
  }
}

}  // namespace

std::string checkpoint_name(int64_t step) { return fmt::format("{}{:0{}}", kPrefix, step, kLeastDigits); }

std::string shard_name(int64_t rank) { return fmt::format("rank-{:05}.safetensors", rank); }

std::vector<CheckpointEntry> list_checkpoints(const std::string& folder) {
  std::vector<CheckpointEntry> entries;
  for (const std::string& name : names_in(folder)) {
    if (const int64_t step = step_of(name); step >= 0) entries.push_back({step, folder + "/" + name});
  }
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return entries;
}

Manifest read_manifest(const std::string& checkpoint) {
  const std::string path = checkpoint + "/" + kManifestName;
  DiskInputFile file(path, ReadFrom::cache);
  std::string text;
  for (std::string_view piece = file.next(); !piece.empty(); piece = file.next()) {
    text += piece;
    if (static_cast<int64_t>(text.size()) > kLargestManifest) {
      throw Error(fmt::format("{}: larger than {} MiB: not a manifest", path, kLargestManifest >> 20));
    }
  }
  Manifest manifest = parse_manifest(text, path);
  const int64_t step = step_of(fs::path(checkpoint).filename().string());
  if (step >= 0 && step != manifest.training.step) {
    throw Error(fmt::format("{}: it is of step {}; its folder has been renamed", path, manifest.training.step));
  }
  return manifest;
}

void verify_shards(const std::string& checkpoint, const Manifest& manifest, ReadFrom from, int64_t part, int64_t parts,
                   const std::function<void()>& progress) {
  for (int64_t i = part; i < static_cast<int64_t>(manifest.shards.size()); i += parts) {
    const ShardRecord& shard = manifest.shards[static_cast<size_t>(i)];
    verify_shard(checkpoint + "/" + shard.file, shard, from, progress);
  }
}

NewCheckpoint::NewCheckpoint(FileSystem& files, const std::string& path)
    : files_(files),
      folder_(fs::path(path).parent_path().string()),
      path_(path),
      partial_(path + std::string(kPartialEnd)) {}

void NewCheckpoint::begin(int64_t bytes) {
  const std::string folder = folder_.empty() ? "." : folder_;
  make_durable_folder(files_, folder);
  files_.remove(partial_);
  const int64_t free = files_.free_bytes(folder), needed = bytes + kSpareBytes;
  if (free >= 0 && free < needed) {
    constexpr double kMiB = 1 << 20;
    throw DiskFull(
        fmt::format("{}: {:.1f} MiB are free, a checkpoint needs {:.1f} MiB\n       cures: free space, a smaller "
                    "checkpoint.keep_last, or another logging.directory",
                    folder, static_cast<double>(free) / kMiB, static_cast<double>(needed) / kMiB));
  }
  files_.make_folder(partial_);
}

void NewCheckpoint::commit(const Manifest& manifest) {
  const std::string text = to_text(manifest);
  {
    const std::unique_ptr<OutputFile> file = files_.create(partial_ + "/" + kManifestName);
    file->write(text.data(), static_cast<int64_t>(text.size()));
    file->sync();
  }
  files_.sync_folder(partial_);
  const std::string earlier = path_ + std::string(kRemovedEnd);
  const bool replaces = there_is(path_);
  if (replaces) {
    files_.remove(earlier);
    files_.rename(path_, earlier);
  }
  files_.rename(partial_, path_);
  files_.sync_folder(folder_);
  if (replaces) files_.remove(earlier);
}

void NewCheckpoint::discard() noexcept {
  try {
    files_.remove(partial_);
  } catch (const Error&) {  // the failure that led here has been told; begin() removes it, or says why it cannot
  }
}

std::vector<CheckpointEntry> outdated(const std::vector<CheckpointEntry>& entries, int64_t keep_last,
                                      int64_t keep_every) {
  std::vector<CheckpointEntry> old;
  const int64_t newest = static_cast<int64_t>(entries.size()) - keep_last;
  for (int64_t i = 0; i < newest; ++i) {
    const CheckpointEntry& entry = entries[static_cast<size_t>(i)];
    if (keep_every == 0 || entry.step % keep_every != 0) old.push_back(entry);
  }
  return old;
}

std::string foreign_in_checkpoints(const std::string& folder) {
  const auto is_of_nfs = [](const std::string& name) { return name.rfind(".nfs", 0) == 0; };  // removed, still open
  for (const std::string& name : names_in(folder)) {
    if (is_of_nfs(name)) continue;
    const std::string path = folder + "/" + name;
    if ((step_of(name) < 0 && !is_leftover(name)) || !fs::is_directory(path)) return path;
    for (const std::string& file : names_in(path)) {
      if (file != kManifestName && !is_shard_name(file) && !is_of_nfs(file)) return path + "/" + file;
    }
  }
  return "";
}

void remove_checkpoint(FileSystem& files, const CheckpointEntry& entry) {
  const std::string removed = entry.path + std::string(kRemovedEnd);
  files.remove(removed);
  files.rename(entry.path, removed);
  files.sync_folder(fs::path(entry.path).parent_path().string());
  files.remove(removed);
}

void remove_leftovers(FileSystem& files, const std::string& folder) {
  for (const std::string& name : names_in(folder)) {
    if (is_leftover(name)) files.remove(folder + "/" + name);
  }
}

}  // namespace dither
