// The records of a forgetful disk: one small file each, replaced by renaming.
#include "tests/checkpoint_faults/forgetful_image.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/error.h"

namespace dither {

namespace fs = std::filesystem;

namespace {

[[noreturn]] void fail(const std::string& path, const std::string& action) {
  throw Error(path + ": cannot " + action + ": " + std::strerror(errno));
}

}  // namespace

ForgetfulLock::ForgetfulLock(const std::string& image) {
  const std::string path = image + "/lock";
  descriptor_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail(path, "be opened");
  while (flock(descriptor_, LOCK_EX) != 0) {
    if (errno == EINTR) continue;
    close(descriptor_);
    fail(path, "be locked");
  }
}

ForgetfulLock::~ForgetfulLock() { close(descriptor_); }

ForgetfulImage::ForgetfulImage(std::string path) : path_(std::move(path)) {
  for (const char* part : {"/files", "/bytes", "/folders", "/attic"}) fs::create_directories(path_ + part);
}

bool ForgetfulImage::knows(const ForgetfulEntry& entry) const {
  return fs::exists(entry.folder ? record_of(entry.id) : link_of(entry.id));
}

ForgetfulEntries ForgetfulImage::known_in(const std::string& folder) const {
  ForgetfulEntries entries;
  for (const auto& item : fs::directory_iterator(folder)) {
    struct stat status = {};
    if (lstat(item.path().c_str(), &status) != 0) continue;  // not the layer's: its names change under the lock alone
    const ForgetfulEntry entry{status.st_ino, S_ISDIR(status.st_mode)};
    if (knows(entry)) entries[item.path().filename().string()] = entry;
  }
  return entries;
}

// Lines "<id> <d or f> <name>".
ForgetfulEntries ForgetfulImage::load(Identity folder) const {
  ForgetfulEntries entries;
  std::ifstream file(record_of(folder));
  if (!file) throw Error(record_of(folder) + " cannot be read");
  Identity id;
  char kind;
  std::string name;
  while (file >> id >> kind && file.get() == ' ' && std::getline(file, name)) entries[name] = {id, kind == 'd'};
  return entries;
}

void ForgetfulImage::store(Identity folder, const ForgetfulEntries& entries) const {
  std::string text;
  for (const auto& [name, entry] : entries) {
    if (name.find('\n') != std::string::npos) throw Error("a name with a line's end in it: " + name);
    text += std::to_string(entry.id) + (entry.folder ? " d " : " f ") + name + "\n";
  }
  const std::string fresh = path_ + "/record";  // the lock's holder alone writes it
  write_bytes(fresh, text);
  fs::rename(fresh, record_of(folder));
}

void ForgetfulImage::store_bytes(Identity file) const {
  const std::string fresh = bytes_of(file) + ".new";  // a file has one writer
  fs::copy_file(link_of(file), fresh, fs::copy_options::overwrite_existing);
  fs::rename(fresh, bytes_of(file));
}

ForgetfulEntry entry_at(const std::string& path) {
  struct stat status = {};
  if (lstat(path.c_str(), &status) != 0) fail(path, "be looked at");
  return {status.st_ino, S_ISDIR(status.st_mode)};
}

std::string normal_path(const std::string& path) {
  std::string whole = fs::absolute(path).lexically_normal().string();
  if (whole.size() > 1 && whole.back() == '/') whole.pop_back();
  return whole;
}

std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(path, "be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << bytes;
  file.close();
  if (!file) fail(path, "be written");
}

}  // namespace dither
