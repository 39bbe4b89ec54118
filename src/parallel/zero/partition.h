// How a bucket's elements are shared out among ranks.
//
// Ranks stand in groups of `shards` consecutive ones (a node's GPUs, or all); each group holds one copy of the model's
// state, cut evenly: rank r owns shard r mod shards of every part of every bucket. Ranks of equal shards in different
// groups are copies of each other. ZeRO 0 is the case of groups of one: everybody has all.
//
//   4 ranks, groups of 2:   rank   0  1 | 2  3       a bucket's part   [ shard 0          | shard 1          ]
//                           shard  0  1 | 0  1       pieces of ranks   [ rank 0 | rank 2  | rank 1 | rank 3  ]
//                           copy   0  0 | 1  1
//
// Under `ordered` each rank adds up a piece of its shard (pieces() of all ranks make up the part), and the copies then
// gather the shard.
#pragma once

#include <cstdint>

#include "src/config/config.h"
#include "src/model/parameter_table.h"

namespace dither {

struct Partition {
  int rank = 0, ranks = 1;
  int shards = 1;  // ranks of a group; divides `ranks`

  int shard() const { return rank % shards; }
  int copies() const { return ranks / shards; }
  int copy() const { return rank / shards; }

  // Of a part of `elements`, a multiple of ranks * kLeafElements.
  int64_t shard_elements(int64_t elements) const { return elements / shards; }
  int64_t shard_begin(int64_t elements) const { return shard() * shard_elements(elements); }
  int64_t piece_elements(int64_t elements) const { return elements / ranks; }
  int64_t piece_begin(int64_t elements, int of_rank) const {
    return of_rank % shards * shard_elements(elements) + of_rank / shards * piece_elements(elements);
  }
};

/// Throws Error where parallel.shard_group_size does not divide the number of ranks.
Partition partition_of(const ParallelConfig& config, int rank, int ranks);

}  // namespace dither
