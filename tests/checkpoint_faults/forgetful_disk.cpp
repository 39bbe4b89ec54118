// Every operation on the real disk, and its change of the image before or after it as forgetful_disk.h tells.
#include "tests/checkpoint_faults/forgetful_disk.h"

#include <filesystem>
#include <utility>

#include "base/error.h"
#include "tests/checkpoint_faults/forgetful_image.h"

namespace dither {

namespace fs = std::filesystem;

namespace {

std::string parent_of(const std::string& path) { return fs::path(path).parent_path().string(); }
std::string name_of(const std::string& path) { return fs::path(path).filename().string(); }

bool exists(const std::string& path) { return fs::symlink_status(path).type() != fs::file_type::not_found; }
bool is_folder(const std::string& path) { return fs::symlink_status(path).type() == fs::file_type::directory; }

class ForgetfulFile final : public OutputFile {
 public:
  ForgetfulFile(std::unique_ptr<OutputFile> file, ForgetfulImage image, Identity id)
      : file_(std::move(file)), image_(std::move(image)), id_(id) {}

  void write(const void* data, int64_t bytes) override { file_->write(data, bytes); }
  void sync() override {
    file_->sync();
    image_.store_bytes(id_);
  }

 private:
  const std::unique_ptr<OutputFile> file_;
  const ForgetfulImage image_;
  const Identity id_;
};

}  // namespace

ForgetfulDisk::ForgetfulDisk(const std::string& real, const std::string& image)
    : real_(normal_path(real)), image_(image) {
  if (!is_folder(real_)) throw Error(real_ + " is no folder");
  const ForgetfulImage made(image_);
}

/// The path as an absolute one; "" where it lies outside.
std::string ForgetfulDisk::inside(const std::string& path) const {
  const std::string whole = normal_path(path);
  return whole == real_ || whole.rfind(real_ + "/", 0) == 0 ? whole : "";
}

/// A folder that was there before the layer, and those above it, get a record, and their names are durable.
void ForgetfulDisk::make_known(const std::string& folder) const {
  const ForgetfulImage image(image_);
  const ForgetfulEntry entry = entry_at(folder);
  if (image.knows(entry)) return;
  if (folder != real_) {
    make_known(parent_of(folder));
    const Identity parent = entry_at(parent_of(folder)).id;
    ForgetfulEntries entries = image.load(parent);
    entries[name_of(folder)] = entry;
    image.store(parent, entries);
  }
  image.store(entry.id, {});
}

std::unique_ptr<OutputFile> ForgetfulDisk::create(const std::string& path) {
  const ForgetfulLock lock(image_);
  const ForgetfulImage image(image_);
  const std::string whole = inside(path);
  if (whole.empty() || !is_folder(parent_of(whole)) || is_folder(whole)) return disk().create(path);
  make_known(parent_of(whole));
  if (exists(whole)) {
    const ForgetfulEntry entry = entry_at(whole);
    if (!image.knows(entry)) throw Error(path + " was not made through the forgetful disk, which cannot empty it");
    fs::remove(image.bytes_of(entry.id));
    return std::make_unique<ForgetfulFile>(disk().create(path), image, entry.id);
  }
  disk().remove(image.staging());
  std::unique_ptr<OutputFile> file = disk().create(image.staging());
  const Identity id = entry_at(image.staging()).id;
  fs::create_hard_link(image.staging(), image.link_of(id));
  disk().rename(image.staging(), whole);
  return std::make_unique<ForgetfulFile>(std::move(file), image, id);
}

void ForgetfulDisk::make_new_folder(const std::string& path) const {
  const ForgetfulImage image(image_);
  disk().remove(image.staging());
  disk().make_folder(image.staging());
  image.store(entry_at(image.staging()).id, {});
  disk().rename(image.staging(), path);
}

void ForgetfulDisk::make_folder(const std::string& path) {
  const ForgetfulLock lock(image_);
  const std::string whole = inside(path);
  if (whole.empty()) return disk().make_folder(path);
  std::string made = real_;
  for (const fs::path& name : fs::path(whole).lexically_relative(real_)) {
    if (name == ".") continue;
    make_known(made);
    made += "/" + name.string();
    if (!exists(made)) make_new_folder(made);
  }
  disk().make_folder(path);  // where it exists: no error for a folder, the disk's own for a file
}

void ForgetfulDisk::rename(const std::string& from, const std::string& to) {
  const ForgetfulLock lock(image_);
  const std::string source = inside(from), target = inside(to);
  if (source.empty() && target.empty()) return disk().rename(from, to);
  if (source.empty() || target.empty() || parent_of(source) != parent_of(target)) {
    throw Error(from + ": the forgetful disk does not rename to another folder, as " + to);
  }
  if (!is_folder(parent_of(source)) || !exists(source)) return disk().rename(from, to);
  make_known(parent_of(source));
  if (!ForgetfulImage(image_).knows(entry_at(source))) {
    throw Error(from + " was not made through the forgetful disk, which cannot rename it");
  }
  // The system would let an empty folder be replaced, and its number free for another.
  if (is_folder(source) && is_folder(target) && fs::is_empty(target)) remove_known(target);
  disk().rename(from, to);
}

/// Files first, folders from within.
void ForgetfulDisk::remove_known(const std::string& path) const {
  if (!is_folder(path)) return disk().remove(path);
  for (const auto& item : fs::directory_iterator(path)) remove_known(item.path().string());
  const ForgetfulImage image(image_);
  const ForgetfulEntry entry = entry_at(path);
  if (!image.knows(entry)) return disk().remove(path);
  disk().rename(path, image.attic_of(entry.id));
}

void ForgetfulDisk::remove(const std::string& path) {
  const ForgetfulLock lock(image_);
  const std::string whole = inside(path);
  if (whole.empty() || whole == real_ || !exists(whole)) return disk().remove(path);
  make_known(parent_of(whole));
  remove_known(whole);
}

void ForgetfulDisk::sync_folder(const std::string& path) {
  const ForgetfulLock lock(image_);
  const std::string whole = inside(path);
  if (whole.empty() || !is_folder(whole)) return disk().sync_folder(path);
  make_known(whole);
  const ForgetfulImage image(image_);
  const ForgetfulEntries names = image.known_in(whole);  // before it is synced: these will be on the disk, no others
  disk().sync_folder(path);
  image.store(entry_at(whole).id, names);
}

int64_t ForgetfulDisk::free_bytes(const std::string& path) { return disk().free_bytes(path); }

}  // namespace dither
