// What the disks of tests have in common: folders are the machine's own.
#pragma once

#include <string>

#include "src/checkpoint/file_system.h"

namespace dither::test {

class DiskBeneath : public FileSystem {
 public:
  void make_folder(const std::string& path) override { disk().make_folder(path); }
  void rename(const std::string& from, const std::string& to) override { disk().rename(from, to); }
  void remove(const std::string& path) override { disk().remove(path); }
  void sync_folder(const std::string& path) override { disk().sync_folder(path); }
  int64_t free_bytes(const std::string& path) override { return disk().free_bytes(path); }
};

}  // namespace dither::test
