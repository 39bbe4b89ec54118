#include "src/training/node_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/cgroup.h"  // pseudo_file()
#include "base/error.h"
#include "src/parallel/connection.h"  // pack(), Unpacker
#include "src/parallel/sockets.h"     // host_name()
#include "src/training/engine.h"      // plan(), uses_cuda()

namespace dither {

namespace {

struct Shared {
  int ranks = 0;
  double needed = 0;  // bytes, of all of them
  int64_t free = -1;
  std::string host, limit;
};

}  // namespace

std::vector<std::string> memory_lacks(Control& control, int64_t needed_bytes, const FreeMemory& free,
                                      const std::string& device) {
  std::string own;
  star::pack(own, needed_bytes);
  star::pack(own, free.bytes);
  star::pack_text(own, star::host_name());
  star::pack_text(own, free.limit);
  // Containers have names of their own on one machine, machines may have the same name.
  star::pack_text(own, pseudo_file("/proc/sys/kernel/random/boot_id") + device);
  std::map<std::string, Shared> places;
  std::vector<std::string> place_of;
  for (const std::string& text : control.all_gather(own)) {
    star::Unpacker rank(text);
    const auto needed = rank.value<int64_t>(), bytes = rank.value<int64_t>();
    const std::string host = rank.text(), limit = rank.text();
    const std::string own_limit =
        limit == kAddressSpaceLimit ? std::to_string(place_of.size()) : "";  // shared with none
    place_of.push_back(host + "\n" + limit + "\n" + rank.text() + "\n" + own_limit);
    Shared& place = places[place_of.back()];
    ++place.ranks;
    place.needed += static_cast<double>(needed);
    if (place.free < 0 || (bytes >= 0 && bytes < place.free)) place.free = bytes;
    place.host = host;
    place.limit = limit;
  }
  constexpr double kMiB = 1 << 20;
  std::vector<std::string> lacks;
  for (const std::string& name : place_of) {
    const Shared& place = places[name];
    const bool fits = place.free < 0 || place.needed <= static_cast<double>(place.free);
    lacks.push_back(fits ? ""
                         : fmt::format("{} rank{} of {} need{} {:.0f} MiB, {:.0f} MiB are free{}", place.ranks,
                                       place.ranks == 1 ? "" : "s", place.host, place.ranks == 1 ? "s" : "",
                                       place.needed / kMiB, static_cast<double>(place.free) / kMiB,
                                       place.limit.empty() ? "" : " (" + place.limit + ")"));
  }
  return lacks;
}

void demand_fitting_memory(Control& control, const Config& config, const Backend& backend) {
  if (control.size() == 1) return;  // the engine says it
  const MemoryPlan plan = Engine::plan(config, control.rank(), control.size());
  const FreeMemory free = uses_cuda(config) ? FreeMemory{backend.free_bytes(), ""} : free_memory();
  const std::vector<std::string> lacks =
      memory_lacks(control, plan.total() - backend.allocated_bytes(), free, backend.device_id());
  for (const std::string& lack : lacks) {
    if (lack.empty()) continue;
    throw Error(
        fmt::format("the model does not fit: {}\n       cures: fewer ranks a node, a higher parallel.zero_stage, a "
                    "smaller batch.micro_batch_size or model.sequence_length, a smaller model",
                    lack));
  }
}

}  // namespace dither
