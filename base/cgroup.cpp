#include "base/cgroup.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <sstream>
#include <string_view>

namespace dither {

namespace {

struct Mount {
  std::string root;   // the group that is seen at `point`
  std::string point;  // where it is mounted
  bool unified;
};

bool lists(const std::string& comma_list, const std::string& word) {
  return ("," + comma_list + ",").find("," + word + ",") != std::string::npos;
}

/// Lines of /proc/self/mountinfo: id, parent, device, root, mount point, options, optional fields, "-", type, source,
/// options of the file system.
std::vector<Mount> mounts_of(const std::string& controller, const std::string& root) {
  std::vector<Mount> mounts;
  std::istringstream lines(pseudo_file(root + "/proc/self/mountinfo"));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string skipped, type, source, options;
    Mount mount{};
    fields >> skipped >> skipped >> skipped >> mount.root >> mount.point;
    while (fields >> skipped && skipped != "-") {
    }
    fields >> type >> source >> options;
    mount.unified = type == "cgroup2";
    if (mount.unified || (type == "cgroup" && lists(options, controller))) mounts.push_back(mount);
  }
  return mounts;
}

/// The group of this process, from lines such as "4:memory:/job7" and "0::/job7".
std::string group_of(const std::string& controller, bool unified, const std::string& root) {
  std::istringstream lines(pseudo_file(root + "/proc/self/cgroup"));
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (unified ? controllers.empty() : lists(controllers, controller)) return line.substr(second + 1);
  }
  return "";
}

/// The path of a group below the mount point; "" for the mount point itself, also where the group lies outside of what
/// is mounted: a container then sees its own group there.
std::string below(const Mount& mount, const std::string& group) {
  const std::string start = mount.root == "/" ? "" : mount.root;
  if (group.compare(0, start.size() + 1, start + "/") != 0 || group.find("/..") != std::string::npos) return "";
  const std::string rest = group.substr(start.size());
  return rest == "/" ? "" : rest;
}

}  // namespace

std::string pseudo_file(const std::string& path) {
  constexpr size_t kMost = 1 << 20, kPiece = 4096;
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return "";
  std::string text;
  while (text.size() < kMost) {
    const size_t before = text.size();
    text.resize(before + kPiece);
    const ssize_t count = read(descriptor, text.data() + before, kPiece);
    text.resize(before + static_cast<size_t>(std::max<ssize_t>(count, 0)));
    if (count <= 0) break;
  }
  close(descriptor);
  return text;
}

std::optional<int64_t> number_of(const std::string& text) {
  const size_t begin = std::min(text.find_first_not_of(" \t"), text.size());
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data() + begin, text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

std::optional<int64_t> number_after(const std::string& text, const std::string& key) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (text.compare(begin, key.size(), key) == 0 && begin + key.size() < end &&
        (text[begin + key.size()] == ' ' || text[begin + key.size()] == '\t')) {
      return number_of(text.substr(begin + key.size(), end - begin - key.size()));
    }
    begin = end + 1;
  }
  return std::nullopt;
}

std::vector<CgroupFolder> cgroup_folders(const std::string& controller, const std::string& root) {
  std::vector<CgroupFolder> folders;
  for (const Mount& mount : mounts_of(controller, root)) {
    std::string group = below(mount, group_of(controller, mount.unified, root));
    while (true) {
      folders.push_back({mount.point + group, mount.unified});
      const size_t slash = group.rfind('/');
      if (slash == std::string::npos) break;
      group.resize(slash);
    }
  }
  return folders;
}

}  // namespace dither
