#include "src/parallel/zero/partition.h"

#include <fmt/format.h>

#include "base/error.h"

namespace dither {

Partition partition_of(const ParallelConfig& config, int rank, int ranks) {
  DITHER_ASSERT(rank >= 0 && rank < ranks);
  if (config.zero_stage == 0) return {rank, ranks, 1};
  const int64_t group = config.shard_group_size == 0 ? ranks : config.shard_group_size;
  if (ranks % group != 0) {
    throw Error(
        fmt::format("parallel.shard_group_size is {}, must divide the number of ranks, {}\n"
                    "       cures: a divisor of {}, or 0: all ranks share one copy",
                    group, ranks, ranks));
  }
  return {rank, ranks, static_cast<int>(group)};
}

}  // namespace dither
