#include "src/planning/step_time.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "base/error.h"

namespace dither {

namespace {

double operation_seconds(const StepEvent& event, const Inputs& inputs) {
  const double flops = inputs.product_flop_per_second * inputs.product_utilisation;
  const double memory = inputs.memory_bytes_per_second * inputs.memory_utilisation;
  return std::max(
      {flops > 0 ? event.flop / flops : 0.0, static_cast<double>(event.bytes) / memory, inputs.operation_seconds});
}

/// Ranks of a node that a world of so many has.
double local_ranks(int ranks, const Inputs& inputs) { return std::min<double>(ranks, inputs.ranks_per_node); }

/// CPU ranks share cores: they slow each other down up to the point where all cores are busy, then they take turns.
double sharing(int ranks, const Inputs& inputs) {
  if (inputs.cores <= 0) return 1;
  const double wanted = local_ranks(ranks, inputs) * inputs.threads;
  const double busy = std::min(wanted, inputs.cores), idle = inputs.cores - inputs.threads;
  const double slowdown = idle > 0 ? 1 + (inputs.busy_slowdown - 1) * std::max(0.0, busy - inputs.threads) / idle : 1;
  return slowdown * std::max(1.0, wanted / inputs.cores);
}

/// Collectives of CPU ranks are work of one thread each.
double collective_sharing(int ranks, const Inputs& inputs) {
  return inputs.cores <= 0 ? 1 : std::max(1.0, local_ranks(ranks, inputs) / inputs.cores);
}

/// Runs the events through two queues. A device does one operation at a time, whichever stream it was given to; beside
/// operations run collectives alone.
double last_of_both(const Rehearsal& rehearsal, bool one_queue, const std::vector<double>& seconds) {
  // Both queues advance by the same time a round long before this many: what is beyond is multiplied.
  constexpr int64_t kRoundsRun = 256;
  std::array<double, 2> now = {};
  const auto run = [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      const StepEvent& event = rehearsal.events[i];
      const size_t stream = one_queue ? 0 : event.stream;
      if (event.kind == StepEvent::Kind::order) {
        now[stream] = std::max(now[0], now[1]);
      } else {
        now[stream] += seconds[i];
        if (stream == 1 && event.kind == StepEvent::Kind::operation) now[0] += seconds[i];
      }
    }
  };
  run(0, rehearsal.alike_begin);
  const int64_t rounds = std::min(rehearsal.alike_rounds, kRoundsRun);
  std::array<double, 2> before = now;
  for (int64_t round = 0; round < rounds; ++round) {
    before = now;
    run(rehearsal.alike_begin, rehearsal.alike_end);
  }
  for (size_t q = 0; q < 2; ++q) now[q] += static_cast<double>(rehearsal.alike_rounds - rounds) * (now[q] - before[q]);
  run(rehearsal.alike_end, rehearsal.events.size());
  return std::max(now[0], now[1]);
}

}  // namespace

Ring ring_of(Circle circle, const Partition& partition, int ranks_per_node) {
  const auto up = [](int a, int b) { return (a + b - 1) / b; };
  switch (circle) {
    case Circle::world:
      return {partition.ranks, up(partition.ranks, ranks_per_node)};
    case Circle::group:
      return {partition.shards, up(partition.shards, ranks_per_node)};
    case Circle::copies:
      break;
  }
  // Every shards-th rank: on each node as many as whole groups fit there.
  const int on_a_node = std::max(1, ranks_per_node / partition.shards);
  return {partition.copies(), up(partition.copies(), on_a_node)};
}

double collective_seconds(const StepEvent& event, const Ring& ring, const Inputs& inputs) {
  if (ring.ranks < 2) return 0;
  const double W = ring.ranks, K = ring.nodes, M = ring.on_a_node(), bytes = static_cast<double>(event.bytes);
  const double inside = inputs.inside_bytes_per_second * inputs.link_utilisation;
  const double sums =
      inputs.inside_sum_bytes_per_second > 0 ? inputs.inside_sum_bytes_per_second * inputs.link_utilisation : inside;
  const double between = inputs.between_bytes_per_second * inputs.link_utilisation;
  const double hops = (W - K) * inputs.inside_hop_seconds + (K - 1) * inputs.between_hop_seconds;
  // Once around the ring: every rank passes (W-1)/W of the data on; between two nodes it goes over the links of M
  // ranks.
  const auto around = [&](double bandwidth) {
    const double share = (W - 1) / W * bytes;
    return std::max(share / bandwidth, K > 1 ? share / (M * between) : 0.0);
  };
  switch (event.collective) {
    case Collective::all_reduce: {
      const double tree = 2 * ((M - 1) * inputs.inside_hop_seconds + std::ceil(std::log2(K)) * inputs.tree_hop_seconds);
      return inputs.call_seconds + std::min(2 * hops, K > 1 ? tree : 2 * hops) + around(sums) + around(inside);
    }
    case Collective::reduce_scatter:
      return inputs.call_seconds + hops + around(sums);
    case Collective::all_gather:
      return inputs.call_seconds + hops + around(inside);
    case Collective::all_to_all:
      break;
  }
  // Each pair directly: what leaves the node goes over the rank's own link.
  const double outside = K > 1 ? (W - M) / W * bytes / between : 0;
  return inputs.call_seconds + hops + std::max((M - 1) / W * bytes / inside, outside);
}

Inputs with_speeds(const Rehearsal& one_rank, int64_t micro_batches, Inputs inputs) {
  if (inputs.product_flop_per_second > 0 || !inputs.has_times()) return inputs;
  double flop = 0, moved = 0, moved_by_update = 0;  // bytes, of operations without products
  for (size_t i = 0; i < one_rank.events.size(); ++i) {
    const StepEvent& event = one_rank.events[i];
    const auto times = static_cast<double>(one_rank.times(i));
    if (event.kind != StepEvent::Kind::operation) continue;
    flop += times * event.flop;
    if (event.flop == 0) (event.update ? moved_by_update : moved) += times * static_cast<double>(event.bytes);
  }
  if (inputs.update_seconds > 0) inputs.memory_bytes_per_second = moved_by_update / inputs.update_seconds;
  const double update = moved_by_update / inputs.memory_bytes_per_second;
  const double rounds = inputs.micro_batch_seconds > 0 ? inputs.micro_batch_seconds * static_cast<double>(micro_batches)
                                                       : inputs.one_rank_step_seconds - update;
  // At least half of the time, should the guess of memory's speed be that far off.
  const double whole = inputs.micro_batch_seconds > 0 ? rounds : inputs.one_rank_step_seconds;
  inputs.product_flop_per_second = flop / std::max(rounds - moved / inputs.memory_bytes_per_second, whole / 2);
  return inputs;
}

ComputeScale compute_scale(const Rehearsal& one_rank, int64_t micro_batches, const Inputs& inputs) {
  double rounds = 0, update = 0;
  for (size_t i = 0; i < one_rank.events.size(); ++i) {
    const StepEvent& event = one_rank.events[i];
    if (event.kind != StepEvent::Kind::operation) continue;
    (event.update ? update : rounds) += static_cast<double>(one_rank.times(i)) * operation_seconds(event, inputs);
  }
  ComputeScale scale;
  if (inputs.one_rank_step_seconds > 0) scale.rounds = scale.update = inputs.one_rank_step_seconds / (rounds + update);
  if (inputs.micro_batch_seconds > 0) {
    scale.rounds = inputs.micro_batch_seconds * static_cast<double>(micro_batches) / rounds;
  }
  if (inputs.update_seconds > 0) scale.update = inputs.update_seconds / update;
  return scale;
}

StepTime step_time(const Rehearsal& rehearsal, const Partition& partition, const Inputs& inputs,
                   const ComputeScale& scale) {
  const bool one_queue = inputs.cores > 0;
  const int ranks_per_node = static_cast<int>(inputs.ranks_per_node);
  const double shared = sharing(partition.ranks, inputs), shared_calls = collective_sharing(partition.ranks, inputs);
  StepTime time;
  std::vector<double> both(rehearsal.events.size()), compute(rehearsal.events.size());
  for (size_t i = 0; i < rehearsal.events.size(); ++i) {
    const StepEvent& event = rehearsal.events[i];
    if (event.kind == StepEvent::Kind::operation) {
      both[i] = compute[i] = operation_seconds(event, inputs) * (event.update ? scale.update : scale.rounds) * shared;
    } else if (event.kind == StepEvent::Kind::collective) {
      both[i] = collective_seconds(event, ring_of(event.circle, partition, ranks_per_node), inputs) * shared_calls;
      time.communication_seconds += static_cast<double>(rehearsal.times(i)) * both[i];
    }
  }
  time.step_seconds = last_of_both(rehearsal, one_queue, both);
  time.compute_seconds = last_of_both(rehearsal, one_queue, compute);
  return time;
}

}  // namespace dither
