// What the predictions of `dither plan` are made from: named numbers of a device and of what connects ranks, each with
// its unit, meaning and source, each open to a better value (--input NAME=VALUE).
#pragma once

#include <string>
#include <vector>

#include "kernels/numerics/dtype.h"

namespace dither {

struct Inputs {
  // Of a device. A rank computes an operation in the longest of three times: its products, its memory, its start.
  double memory_bytes = 0;   // of a CPU rank: its share of what is free here
  std::string memory_limit;  // what says so, where it was not given; "" : the device
  double product_flop_per_second = 0;
  double product_utilisation = 1;
  double memory_bytes_per_second = 0;
  double memory_utilisation = 1;
  double operation_seconds = 0;
  // Measured on one rank, alone; 0: not. They replace the sum of the operations' times.
  double one_rank_step_seconds = 0;
  double micro_batch_seconds = 0;
  double update_seconds = 0;
  // Of what connects ranks.
  double ranks_per_node = 0;  // 0: all on one
  double inside_bytes_per_second = 0;
  double inside_sum_bytes_per_second = 0;
  double inside_hop_seconds = 0;
  double between_bytes_per_second = 0;
  double between_hop_seconds = 0;
  double tree_hop_seconds = 0;
  double call_seconds = 0;
  double link_utilisation = 1;
  // Of CPU ranks; 0 cores: every rank has a device of its own, whose collectives run beside the computation.
  double cores = 0;
  double threads = 1;
  double busy_slowdown = 1;

  bool has_times() const { return product_flop_per_second > 0 || micro_batch_seconds > 0 || one_rank_step_seconds > 0; }
};

/// One input, once.
struct InputKey {
  const char* name;
  double Inputs::*field;
  const char* unit;
  const char* meaning;
};
const std::vector<InputKey>& input_keys();

/// A device by name. Throws Error naming those that are known.
struct DeviceInputs {
  const char* name;
  const char* source;
  double memory_bytes, bf16_flop_per_second, fp32_flop_per_second, memory_bytes_per_second;
  bool cuda;
};
const std::vector<DeviceInputs>& known_devices();
const DeviceInputs& device_inputs(const std::string& name);

/// A link by name, inside nodes or between them.
struct LinkInputs {
  const char* name;
  const char* source;
  double bytes_per_second, hop_seconds, tree_hop_seconds;
  bool between;   // nodes
  bool per_node;  // the bytes are those of a node, shared by its ranks; else of a rank
};
const std::vector<LinkInputs>& known_links();

struct InputChoice {
  std::string device;                    // name
  std::string links;                     // "nvlink4+ndr400"; "": the device's own
  int ranks_per_node = 0;                // 0: eight GPUs, or all CPU ranks
  std::vector<std::string> assignments;  // "NAME=VALUE", over all the rest
};
/// The inputs for so many ranks that compute in `compute`; threads: of a CPU rank, 0: all cores. Of a CPU they are this
/// machine's. Throws Error for an unknown name or a value that cannot be.
Inputs make_inputs(const InputChoice& choice, DType compute, int threads, int ranks);

}  // namespace dither
