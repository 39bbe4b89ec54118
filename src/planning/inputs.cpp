// The tables of inputs. Figures are on paper unless they say otherwise; sources stand in docs/scaling.md too, which is
// made from here.
#include "src/planning/inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/error.h"
#include "base/free_memory.h"
#include "kernels/threads.h"

namespace dither {

namespace {

// Assumptions, not measurements: shares of the paper figures that a good implementation reaches on large shapes.
constexpr double kProductUtilisation = 0.6;  // H100 runs hot: large BF16 products reach 0.6 to 0.75 of 989 TFLOP/s
constexpr double kMemoryUtilisation = 0.8;
constexpr double kLinkUtilisation = 0.8;
constexpr double kLaunchSeconds = 4e-6;  // from one kernel to the next
constexpr double kNcclCallSeconds = 14e-6;
constexpr int kGpusOfANode = 8;
// Until they are measured, in what ratio the operations of a CPU share a measured time.
constexpr double kCpuMemoryBytesPerSecond = 1e10;

template <class Known>
std::string names_of(const Known& list) {
  std::string names;
  for (const auto& item : list) names += (names.empty() ? "" : ", ") + std::string(item.name);
  return names;
}

const LinkInputs& link_inputs(const std::string& name) {
  for (const LinkInputs& link : known_links()) {
    if (name == link.name) return link;
  }
  throw Error(
      fmt::format("\"{}\" is not a known interconnect\n       allowed: {}, or one inside and one between nodes "
                  "as in nvlink4+ndr400; others by --input",
                  name, names_of(known_links())));
}

void use_link(const LinkInputs& link, int ranks_per_node, Inputs& inputs) {
  const double share = link.per_node ? link.bytes_per_second / ranks_per_node : link.bytes_per_second;
  if (link.between) {
    inputs.between_bytes_per_second = share;
    inputs.between_hop_seconds = link.hop_seconds;
    inputs.tree_hop_seconds = link.tree_hop_seconds;
  } else {
    inputs.inside_bytes_per_second = share;
    inputs.inside_hop_seconds = link.hop_seconds;
  }
}

void assign(const std::string& assignment, Inputs& inputs) {
  const size_t equals = assignment.find('=');
  const std::string name = assignment.substr(0, equals);
  for (const InputKey& key : input_keys()) {
    if (name != key.name) continue;
    const std::string text = equals == std::string::npos ? "" : assignment.substr(equals + 1);
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !std::isfinite(value) || value < 0) {
      throw Error(fmt::format("--input {}: needs a number from 0, in {}, as in {}=1.5", assignment,
                              *key.unit == '\0' ? "no unit" : key.unit, key.name));
    }
    inputs.*key.field = value;
    if (key.field == &Inputs::memory_bytes) inputs.memory_limit = "";
    return;
  }
  throw Error(
      fmt::format("--input {}: \"{}\" is not an input\n       allowed: {}", assignment, name, names_of(input_keys())));
}

void use_this_machine(int threads, double local_ranks, Inputs& inputs) {
  const FreeMemory free = free_memory();
  if (free.bytes < 0)
    throw Error("the system does not say how much memory is free: give it by --input memory_bytes=...");
  inputs.memory_bytes = std::floor(static_cast<double>(free.bytes) / local_ranks);
  inputs.memory_limit = free.limit;
  inputs.cores = usable_threads().threads;
  inputs.threads = threads > 0 ? threads : std::max(1.0, std::floor(inputs.cores / local_ranks));
}

void check(const Inputs& inputs, int ranks, const std::string& links) {
  for (const double utilisation : {inputs.product_utilisation, inputs.memory_utilisation, inputs.link_utilisation}) {
    if (utilisation <= 0 || utilisation > 1) {
      throw Error(fmt::format("--input: a utilisation is {}, needs a number above 0 and up to 1", utilisation));
    }
  }
  if (inputs.ranks_per_node < 1 || inputs.ranks_per_node != std::floor(inputs.ranks_per_node)) {
    throw Error(fmt::format("ranks_per_node is {}, needs an integer from 1", inputs.ranks_per_node));
  }
  if (inputs.memory_bytes_per_second <= 0 || inputs.inside_bytes_per_second <= 0) {
    throw Error(
        fmt::format("memory_bytes_per_second is {} and inside_bytes_per_second {}, need numbers above "
                    "0\n       cures: --input, or --interconnect with a link inside nodes",
                    inputs.memory_bytes_per_second, inputs.inside_bytes_per_second));
  }
  if (ranks > inputs.ranks_per_node && inputs.between_bytes_per_second <= 0) {
    throw Error(
        fmt::format("{} ranks at {} a node stand on several nodes, and --interconnect {} does not say what "
                    "connects them\n       cures: --interconnect {}+ndr400, --input "
                    "between_bytes_per_second=..., or more --ranks-per-node",
                    ranks, inputs.ranks_per_node, links, links));
  }
}

}  // namespace

const std::vector<InputKey>& input_keys() {
  static const std::vector<InputKey> keys = {
      {"memory_bytes", &Inputs::memory_bytes, "bytes", "memory of a rank"},
      {"product_flop_per_second", &Inputs::product_flop_per_second, "FLOP/s", "matrix products of a rank, on paper"},
      {"product_utilisation", &Inputs::product_utilisation, "", "share of it that products reach"},
      {"memory_bytes_per_second", &Inputs::memory_bytes_per_second, "B/s", "memory of a rank, on paper"},
      {"memory_utilisation", &Inputs::memory_utilisation, "", "share of it that operations reach"},
      {"operation_seconds", &Inputs::operation_seconds, "s", "least time from one operation to the next"},
      {"one_rank_step_seconds", &Inputs::one_rank_step_seconds, "s", "measured: a whole step of one rank; 0: not"},
      {"micro_batch_seconds", &Inputs::micro_batch_seconds, "s",
       "measured: a micro-batch, forward and backward, of one rank; 0: not"},
      {"update_seconds", &Inputs::update_seconds, "s", "measured: the update of the whole model by one rank; 0: not"},
      {"ranks_per_node", &Inputs::ranks_per_node, "", "ranks of a node"},
      {"inside_bytes_per_second", &Inputs::inside_bytes_per_second, "B/s", "from a rank to others of its node"},
      {"inside_sum_bytes_per_second", &Inputs::inside_sum_bytes_per_second, "B/s",
       "the same where they are summed on arrival; 0: no slower"},
      {"inside_hop_seconds", &Inputs::inside_hop_seconds, "s", "latency of a hop inside a node"},
      {"between_bytes_per_second", &Inputs::between_bytes_per_second, "B/s", "of each rank, from its node to another"},
      {"between_hop_seconds", &Inputs::between_hop_seconds, "s", "latency of a hop between nodes, in a ring"},
      {"tree_hop_seconds", &Inputs::tree_hop_seconds, "s", "the same in a tree"},
      {"call_seconds", &Inputs::call_seconds, "s", "what every collective takes, however small"},
      {"link_utilisation", &Inputs::link_utilisation, "", "share of the links' bytes a second that collectives reach"},
      {"cores", &Inputs::cores, "", "CPU cores of a node that its ranks share; 0: a rank has a device of its own"},
      {"threads", &Inputs::threads, "", "of a CPU rank"},
      {"busy_slowdown", &Inputs::busy_slowdown, "",
       "how much longer a CPU rank computes when all cores do: they share caches and memory"},
  };
  return keys;
}

const std::vector<DeviceInputs>& known_devices() {
  static const std::vector<DeviceInputs> devices = {
      {"h100",
       "NVIDIA H100 data sheet, SXM5: 989.4 TFLOP/s BF16 without sparsity, 66.9 FP32, 3.35 TB/s; nvidia-smi: 81,559 "
       "MiB",
       81559 * double{1 << 20}, 989.4e12, 66.9e12, 3.35e12, true},
      {"cpu", "this machine: memory as the system says; times only from measured inputs", 0, 0, 0,
       kCpuMemoryBytesPerSecond, false},
  };
  return devices;
}

const DeviceInputs& device_inputs(const std::string& name) {
  for (const DeviceInputs& device : known_devices()) {
    if (name == device.name) return device;
  }
  throw Error(fmt::format("\"{}\" is not a known device\n       allowed: {}; others by --input", name,
                          names_of(known_devices())));
}

const std::vector<LinkInputs>& known_links() {
  // Hops: NCCL 2.18, src/graph/tuning.cc, protocol LL128; its 14 microseconds a call too.
  static const std::vector<LinkInputs> links = {
      {"nvlink4", "NVIDIA H100 data sheet: 900 GB/s both ways", 450e9, 1.9e-6, 0, false, false},
      {"pcie5", "PCI Express 5.0, 16 lanes: 32 GT/s each, 128b/130b", 63e9, 2.5e-6, 0, false, false},
      {"ndr400", "InfiniBand NDR, 400 Gb/s for each GPU (DGX H100: eight ConnectX-7)", 50e9, 4e-6, 8.5e-6, true, false},
      {"ethernet100", "100 Gb/s a node", 12.5e9, 4e-6, 8.5e-6, true, true},
      {"host", "memory of one node; to be measured: dither bench --ranks", 2e9, 0, 0, false, false},
  };
  return links;
}

Inputs make_inputs(const InputChoice& choice, DType compute, int threads, int ranks) {
  const DeviceInputs& device = device_inputs(choice.device);
  Inputs inputs;
  inputs.memory_bytes = device.memory_bytes;
  inputs.product_flop_per_second = compute == DType::fp32 ? device.fp32_flop_per_second : device.bf16_flop_per_second;
  inputs.memory_bytes_per_second = device.memory_bytes_per_second;
  const int usual = device.cuda ? std::min(ranks, kGpusOfANode) : ranks;
  inputs.ranks_per_node = choice.ranks_per_node > 0 ? choice.ranks_per_node : usual;
  if (device.cuda) {
    inputs.product_utilisation = kProductUtilisation;
    inputs.memory_utilisation = kMemoryUtilisation;
    inputs.operation_seconds = kLaunchSeconds;
    inputs.link_utilisation = kLinkUtilisation;
    inputs.call_seconds = kNcclCallSeconds;
  } else {
    use_this_machine(threads, std::min<double>(ranks, inputs.ranks_per_node), inputs);
  }
  const std::string links = !choice.links.empty() ? choice.links : device.cuda ? "nvlink4+ndr400" : "host";
  for (size_t begin = 0; begin <= links.size();) {
    const size_t end = std::min(links.find('+', begin), links.size());
    use_link(link_inputs(links.substr(begin, end - begin)), static_cast<int>(inputs.ranks_per_node), inputs);
    begin = end + 1;
  }
  for (const std::string& assignment : choice.assignments) assign(assignment, inputs);
  check(inputs, ranks, links);
  return inputs;
}

}  // namespace dither
