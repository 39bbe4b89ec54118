#include "src/checkpoint/checkpoint_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "base/checksum.h"
#include "base/error.h"

namespace dither {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-", kPartial = ".partial", kRemoved = ".removed";
constexpr size_t kLeastDigits = 8;
constexpr size_t kReadBytes = size_t{8} << 20;
constexpr int64_t kSpareBytes = int64_t{1} << 20;  // for the manifest, headers and the file system's own records

/// The step in the name of a finished checkpoint; -1: another name.
int64_t step_of(const std::string& name) {
  if (name.rfind(kPrefix, 0) != 0) return -1;
  int64_t step = -1;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  return error == std::errc() && stop == end && step >= 0 && checkpoint_name(step) == name ? step : -1;
}

bool ends_with(const std::string& name, std::string_view end) {
  return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
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

class InputFile {
 public:
  explicit InputFile(const std::string& path) : path_(path), descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) fail("be opened");
  }
  ~InputFile() { close(descriptor_); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  int64_t bytes() const {
    struct stat status = {};
    if (fstat(descriptor_, &status) != 0) fail("be looked at");
    return status.st_size;
  }
  /// What the system holds of it in memory goes, unless it is being written: a wish, no promise.
  void forget() const { posix_fadvise(descriptor_, 0, 0, POSIX_FADV_DONTNEED); }
  /// 0 at the end.
  size_t read(void* to, size_t bytes) const {
    ssize_t count;
    do count = ::read(descriptor_, to, bytes);
    while (count < 0 && errno == EINTR);
    if (count < 0) fail("be read");
    return static_cast<size_t>(count);
  }

 private:
  [[noreturn]] void fail(const char* action) const {
    throw Error(fmt::format("{}: cannot {}: {}", path_, action, std::strerror(errno)));
  }
  const std::string path_;
  const int descriptor_;
};

void verify_shard(const std::string& path, const ShardRecord& record, ReadFrom from,
                  const std::function<void()>& progress) {
  const InputFile file(path);
  if (file.bytes() != record.bytes) {
    throw Error(fmt::format("{}: it has {} bytes, {} says {}", path, file.bytes(), kManifestName, record.bytes));
  }
  if (from == ReadFrom::disk) file.forget();
  Checksum checksum;
  std::vector<char> buffer(std::min(kReadBytes, static_cast<size_t>(record.bytes) + 1));
  for (size_t count = file.read(buffer.data(), buffer.size()); count > 0;
       count = file.read(buffer.data(), buffer.size())) {
    checksum.add(buffer.data(), count);
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
  const InputFile file(path);
  std::string text;
  std::vector<char> buffer(kReadBytes);
  for (size_t count = file.read(buffer.data(), buffer.size()); count > 0;
       count = file.read(buffer.data(), buffer.size())) {
    text.append(buffer.data(), count);
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
      partial_(path + std::string(kPartial)) {}

void NewCheckpoint::begin(int64_t bytes) {
  const std::string folder = folder_.empty() ? "." : folder_;
  make_durable_folder(files_, folder);
  files_.remove(partial_);
  const int64_t free = files_.free_bytes(folder), needed = bytes + kSpareBytes;
  if (free < needed) {
    constexpr double kMiB = 1 << 20;
    throw Error(
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
  const std::string earlier = path_ + std::string(kRemoved);
  std::error_code unknown;  // then renaming says why
  const bool replaces = fs::exists(path_, unknown);
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

void remove_checkpoint(FileSystem& files, const CheckpointEntry& entry) {
  const std::string removed = entry.path + std::string(kRemoved);
  files.remove(removed);
  files.rename(entry.path, removed);
  files.sync_folder(fs::path(entry.path).parent_path().string());
  files.remove(removed);
}

void remove_leftovers(FileSystem& files, const std::string& folder) {
  for (const std::string& name : names_in(folder)) {
    if (ends_with(name, kPartial) || ends_with(name, kRemoved)) files.remove(folder + "/" + name);
  }
}

}  // namespace dither
