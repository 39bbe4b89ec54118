// The folder in which a target writes files for its reader.
#include <stdlib.h>  // mkdtemp

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "tests/fuzz/target.h"

namespace dither {
namespace {

struct Scratch {
  std::string path = (std::filesystem::temp_directory_path() / "dither-fuzz-XXXXXX").string();

  Scratch() {
    if (mkdtemp(path.data()) == nullptr) throw Error(path + ": cannot be made: " + std::strerror(errno));
  }
  ~Scratch() {
    std::error_code ignored;  // a folder left behind harms nobody, and there is nobody to tell
    std::filesystem::remove_all(path, ignored);
  }
};

}  // namespace

const std::string& scratch_folder() {
  static const Scratch scratch;
  return scratch.path;
}

}  // namespace dither
