#include "base/free_memory.h"

#include <fstream>
#include <string>

namespace dither {

int64_t free_memory_bytes() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  for (int64_t kibibytes = 0; file >> key >> kibibytes; std::getline(file, unit)) {
    if (key == "MemAvailable:") return kibibytes * 1024;
  }
  return -1;
}

}  // namespace dither
