#include "src/parallel/zero/rank_groups.h"

namespace dither {

RankGroups::RankGroups(std::unique_ptr<Communicator> world, const ParallelConfig& config)
    : world_(std::move(world)), partition_(partition_of(config, world_->rank(), world_->size())) {
  group_ = world_->split(partition_.copy(), partition_.shard());
  copies_ = world_->split(partition_.shard(), partition_.copy());
}

void RankGroups::abort() {
  for (Communicator* c : {copies_.get(), group_.get(), world_.get()}) c->abort();
}

Traffic RankGroups::traffic() const {
  Traffic sum;
  for (const Communicator* c : {world_.get(), group_.get(), copies_.get()}) {
    sum.calls += c->traffic().calls;
    sum.bytes += c->traffic().bytes;
    sum.seconds += c->traffic().seconds;
  }
  return sum;
}

}  // namespace dither
