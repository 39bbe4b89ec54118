// Files of several pieces, written and read past the page cache where the file system offers that.
#include "src/checkpoint/disk_file.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <string>

#include "tests/catch.h"

using namespace dither;

namespace {

std::string read_back(const std::string& path, ReadFrom from) {
  DiskInputFile file(path, from);
  std::string text;
  for (std::string_view piece = file.next(); !piece.empty(); piece = file.next()) text += piece;
  return text;
}

}  // namespace

// Catches: a piece that is written twice or not at all, a tail that is lost or filled up to a whole block, a reader
// that stops at its first piece. In memory there is no direct access, on most disks there is.
TEST_CASE("a file of several pieces and an odd tail comes back byte for byte") {
  const std::string folder = GENERATE(std::string("/dev/shm"), std::filesystem::temp_directory_path().string());
  if (access(folder.c_str(), W_OK) != 0) return;
  const int64_t bytes = GENERATE(0, 1, 4096, 4097, 16 << 20, (33 << 20) + 123);
  std::string text(static_cast<size_t>(bytes), '\0');
  for (size_t i = 0; i + 8 <= text.size(); i += 8) {
    const uint64_t word = (i + 1) * 0x9E3779B97F4A7C15u;
    std::memcpy(text.data() + i, &word, sizeof(word));
  }
  const std::string path = folder + "/dither-disk-file-" + std::to_string(getpid());
  {
    DiskOutputFile file(path);
    for (int64_t done = 0; done < bytes; done += 1000003) {  // across the ends of blocks and pieces
      file.write(text.data() + done, std::min<int64_t>(1000003, bytes - done));
    }
    file.sync();
  }
  const bool cached = read_back(path, ReadFrom::cache) == text, direct = read_back(path, ReadFrom::disk) == text;
  std::filesystem::remove(path);
  INFO(folder << ", " << bytes << " bytes");
  REQUIRE(cached);
  REQUIRE(direct);
}
