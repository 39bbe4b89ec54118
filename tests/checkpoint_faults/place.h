// A folder that goes when the test ends, and short ways to write and read in it through a file layer.
//
// In memory where there is a place for that: thousands of syncs are called for, and what they wait for is not tested.
#pragma once

#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>

#include "base/error.h"
#include "src/checkpoint/file_system.h"

namespace dither::test {

class Place {
 public:
  Place() {
    static std::atomic<int> count{0};
    const char* memory = "/dev/shm";
    const std::filesystem::path folder =
        access(memory, R_OK | W_OK | X_OK) == 0 ? memory : std::filesystem::temp_directory_path();
    path_ = (folder / ("dither-faults-" + std::to_string(getpid()) + "-" + std::to_string(count++))).string();
    std::filesystem::create_directories(path_ + "/real");
  }
  ~Place() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  std::string real() const { return path_ + "/real"; }
  std::string image() const { return path_ + "/image"; }
  std::string operator/(const std::string& name) const { return real() + "/" + name; }

  /// Names of files and folders below real(), with the files' bytes; a folder's name ends with '/'.
  std::map<std::string, std::string> content() const {
    std::map<std::string, std::string> all;
    for (const auto& item : std::filesystem::recursive_directory_iterator(real())) {
      const std::string name = std::filesystem::relative(item.path(), real()).string();
      if (item.is_directory()) {
        all[name + "/"];
      } else {
        std::ifstream file(item.path(), std::ios::binary);
        all[name] = {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
      }
    }
    return all;
  }

 private:
  std::string path_;
};

/// What went wrong; "": nothing.
template <class Work>
std::string error_of(const Work& work) {
  try {
    work();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

/// A file of these bytes; `synced`: until they are on the disk.
inline std::unique_ptr<OutputFile> put(FileSystem& files, const std::string& path, const std::string& bytes,
                                       bool synced) {
  std::unique_ptr<OutputFile> file = files.create(path);
  file->write(bytes.data(), static_cast<int64_t>(bytes.size()));
  if (synced) file->sync();
  return file;
}

}  // namespace dither::test
