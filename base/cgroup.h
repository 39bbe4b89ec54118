// The control groups of Linux that bound this process: where their files are, in version 1 and 2.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dither {

struct CgroupFolder {
  std::string path;      // as a message names it: "/sys/fs/cgroup/job7"
  bool unified = false;  // version 2
};

/// The folders whose limits of `controller` ("memory", "cpu") hold for this process: its own group's first, then each
/// group around it that can be seen from here. Version 1 and 2 may both be mounted: then those of both. Empty where
/// there are none. `root` stands before every path that is read (tests).
std::vector<CgroupFolder> cgroup_folders(const std::string& controller, const std::string& root = "");

/// A pseudo file of the kernel, at most 1 MiB of it; "" where it cannot be read.
std::string pseudo_file(const std::string& path);

/// The number that `text` begins with; nothing for "max" and other words.
std::optional<int64_t> number_of(const std::string& text);

/// The number behind the word `key` at the beginning of a line ("inactive_file 4096", "MemAvailable:  123 kB").
std::optional<int64_t> number_after(const std::string& text, const std::string& key);

}  // namespace dither
