// The records of a forgetful disk (forgetful_disk.h), as the layer writes them and a loss reads them.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace dither {

/// The number of a file's or a folder's inode.
using Identity = uint64_t;

struct ForgetfulEntry {
  Identity id = 0;
  bool folder = false;
  bool operator==(const ForgetfulEntry&) const = default;
};
using ForgetfulEntries = std::map<std::string, ForgetfulEntry>;  // by name

/// Held while it lives; a killed process lets go of it.
class ForgetfulLock {
 public:
  explicit ForgetfulLock(const std::string& image);
  ~ForgetfulLock();
  ForgetfulLock(const ForgetfulLock&) = delete;
  ForgetfulLock& operator=(const ForgetfulLock&) = delete;

 private:
  int descriptor_;
};

class ForgetfulImage {
 public:
  /// Throws Error where its folders cannot be made.
  explicit ForgetfulImage(std::string path);

  const std::string& path() const { return path_; }
  std::string link_of(Identity id) const { return path_ + "/files/" + std::to_string(id); }
  std::string bytes_of(Identity id) const { return path_ + "/bytes/" + std::to_string(id); }
  std::string record_of(Identity id) const { return path_ + "/folders/" + std::to_string(id); }
  std::string attic_of(Identity id) const { return path_ + "/attic/" + std::to_string(id); }
  /// Where new things wait for their place; the lock's holder alone uses it.
  std::string staging() const { return path_ + "/staging"; }

  bool knows(const ForgetfulEntry& entry) const;
  /// What of the layer's lies in this folder now.
  ForgetfulEntries known_in(const std::string& folder) const;

  ForgetfulEntries load(Identity folder) const;
  void store(Identity folder, const ForgetfulEntries& entries) const;
  /// A file's bytes, as they are now, become the durable ones.
  void store_bytes(Identity file) const;

 private:
  const std::string path_;
};

/// The file or folder of that path. Throws Error where there is none.
ForgetfulEntry entry_at(const std::string& path);
/// Absolute, without "..", "." and a slash at the end.
std::string normal_path(const std::string& path);
std::string read_bytes(const std::string& path);
void write_bytes(const std::string& path, const std::string& bytes);

}  // namespace dither
