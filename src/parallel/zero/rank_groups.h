// The communicators of a run: all ranks, the group that shares one copy out, and the copies of this rank's shard.
#pragma once

#include <memory>

#include "src/parallel/communicator.h"
#include "src/parallel/zero/partition.h"

namespace dither {

class RankGroups {
 public:
  /// Takes the communicator of all ranks. All ranks construct theirs together.
  RankGroups(std::unique_ptr<Communicator> world, const ParallelConfig& config);

  const Partition& partition() const { return partition_; }
  Communicator& world() { return *world_; }
  Communicator& group() { return *group_; }    // size shards, ranked by shard
  Communicator& copies() { return *copies_; }  // size copies, ranked by copy

  /// After an error: gives up what waits for others, which may never come.
  void abort();
  /// What this rank has given to all three.
  Traffic traffic() const;

 private:
  std::unique_ptr<Communicator> world_;
  Partition partition_;
  std::unique_ptr<Communicator> group_, copies_;
};

}  // namespace dither
