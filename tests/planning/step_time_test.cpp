// The formulas of docs/scaling.md, with figures that can be checked by hand.
#include "src/planning/step_time.h"

#include "base/error.h"
#include "src/planning/plan.h"
#include "src/planning/report.h"
#include "tests/catch.h"
#include "tests/training/tiny_run.h"

namespace dither {
namespace {

using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::WithinRel;

/// Powers of two, so that sums of seconds are exact.
Inputs plain_inputs() {
  Inputs inputs;
  inputs.product_flop_per_second = 1024;
  inputs.memory_bytes_per_second = 64;
  inputs.ranks_per_node = 4;
  inputs.inside_bytes_per_second = 32;
  inputs.between_bytes_per_second = 4;
  return inputs;
}

StepEvent operation(double seconds, uint8_t stream = 0, bool update = false) {
  return {.kind = StepEvent::Kind::operation, .stream = stream, .update = update, .flop = 1024 * seconds};
}
StepEvent order(uint8_t later) { return {.kind = StepEvent::Kind::order, .stream = later, .update = false}; }
StepEvent collective(Collective kind, int64_t bytes, Circle circle = Circle::world) {
  return {.kind = StepEvent::Kind::collective,
          .stream = 1,
          .update = false,
          .collective = kind,
          .circle = circle,
          .bytes = bytes};
}

const Partition kFour{.rank = 0, .ranks = 4, .shards = 4};

}  // namespace

// Catches: W for W-1, all the bytes through each link, one way of an all-reduce, a latency that is not paid.
TEST_CASE("a collective inside a node takes its call, its hops and the ring's share of the bytes") {
  Inputs inputs = plain_inputs();
  const Ring ring{.ranks = 4, .nodes = 1};
  const auto seconds = [&](Collective kind) { return collective_seconds(collective(kind, 128), ring, inputs); };
  REQUIRE(seconds(Collective::reduce_scatter) == 3);  // 3/4 of 128 bytes at 32 a second
  REQUIRE(seconds(Collective::all_gather) == 3);
  REQUIRE(seconds(Collective::all_to_all) == 3);
  REQUIRE(seconds(Collective::all_reduce) == 6);
  inputs.inside_sum_bytes_per_second = 16;  // what sums takes twice as long, what only moves does not
  REQUIRE(seconds(Collective::reduce_scatter) == 6);
  REQUIRE(seconds(Collective::all_gather) == 3);
  REQUIRE(seconds(Collective::all_reduce) == 9);
  inputs.call_seconds = 10;
  inputs.inside_hop_seconds = 1;
  REQUIRE(seconds(Collective::all_gather) == 3 + 10 + 3);
  REQUIRE(seconds(Collective::all_reduce) == 9 + 10 + 6);
  REQUIRE(collective_seconds(collective(Collective::all_reduce, 128), {.ranks = 1, .nodes = 1}, inputs) == 0);
}

// Catches: a node's links counted once, the network's hops forgotten, the faster of two links taken for the narrower.
TEST_CASE("between nodes the narrower of the two links decides") {
  Inputs inputs = plain_inputs();
  const Ring ring{.ranks = 8, .nodes = 2};  // four links of 4 bytes a second
  REQUIRE(collective_seconds(collective(Collective::all_gather, 128), ring, inputs) == 112.0 / 16);
  inputs.between_bytes_per_second = 1024;
  REQUIRE(collective_seconds(collective(Collective::all_gather, 128), ring, inputs) == 112.0 / 32);
  inputs.inside_hop_seconds = 1;
  inputs.between_hop_seconds = 100;
  REQUIRE(collective_seconds(collective(Collective::all_gather, 128), ring, inputs) == 112.0 / 32 + 6 + 100);
  inputs.tree_hop_seconds = 10;  // two ways of three hops inside and one between, below the ring's 212
  REQUIRE(collective_seconds(collective(Collective::all_reduce, 128), ring, inputs) == 7 + 2 * (3 + 10));
}

// Catches: copies taken for neighbours, a group that is charged for nodes that it does not touch.
TEST_CASE("groups stay inside nodes where they fit, and their copies do not") {
  const Partition p{.rank = 0, .ranks = 64, .shards = 8};
  REQUIRE(ring_of(Circle::world, p, 8).nodes == 8);
  REQUIRE(ring_of(Circle::group, p, 8).nodes == 1);
  REQUIRE(ring_of(Circle::copies, p, 8).nodes == 8);
  REQUIRE(ring_of(Circle::copies, p, 8).ranks == 8);
  REQUIRE(ring_of(Circle::copies, p, 16).on_a_node() == 2);
  REQUIRE(ring_of(Circle::group, {.rank = 0, .ranks = 64, .shards = 16}, 8).nodes == 2);
}

// Catches: everything hidden, nothing hidden, a lane that begins before its data is there, a step that does not wait.
TEST_CASE("a collective hides behind the operations that follow it and shows where they end") {
  const Inputs inputs = plain_inputs();
  Rehearsal r;
  const auto time = [&] { return step_time(r, kFour, inputs, {}); };
  const StepEvent three_seconds = collective(Collective::all_gather, 128);
  r.events = {operation(2), order(1), three_seconds, operation(8), order(0)};
  REQUIRE(time().step_seconds == 10);
  REQUIRE(time().exposed_seconds() == 0);
  REQUIRE(time().communication_seconds == 3);
  r.events = {operation(2), order(1), three_seconds, operation(1), order(0), operation(4)};
  REQUIRE(time().step_seconds == 9);
  REQUIRE(time().compute_seconds == 7);
  REQUIRE(time().exposed_seconds() == 2);
  r.events = {operation(2), order(1), three_seconds};  // nothing waits for it, but the step is not over without it
  REQUIRE(time().step_seconds == 5);
  r.events = {order(1), operation(2, 1), operation(2)};  // one device computes one thing at a time
  REQUIRE(time().step_seconds == 4);
}

// Catches: collectives of CPU ranks that overlap, cores that are not shared, a slowdown that one busy core pays.
TEST_CASE("CPU ranks have one queue, slow each other down, and take turns where cores are short") {
  Inputs inputs = plain_inputs();
  inputs.cores = 2;
  Rehearsal r;
  r.events = {operation(2), order(1), collective(Collective::all_gather, 128), operation(8), order(0)};
  const auto seconds = [&](int ranks) {
    return step_time(r, {.rank = 0, .ranks = ranks, .shards = ranks}, inputs, {}).step_seconds;
  };
  REQUIRE(seconds(1) == 10);
  REQUIRE(seconds(2) == 10 + 2);        // half of the bytes
  REQUIRE(seconds(4) == 2 * (10 + 3));  // two ranks to a core
  inputs.busy_slowdown = 1.5;
  REQUIRE(seconds(1) == 10);
  REQUIRE(seconds(2) == 15 + 2);
  inputs.threads = 2;
  REQUIRE(seconds(1) == 10);  // measured with both cores
  REQUIRE(seconds(2) == 2 * 10 + 2);
}

// Catches: a measured step that is only believed in part, an update that grows with the number of micro-batches.
TEST_CASE("measured times of one rank take the place of the operations' own") {
  Inputs inputs = plain_inputs();
  const Partition alone{.rank = 0, .ranks = 1, .shards = 1};
  Rehearsal r;
  r.events = {operation(2), operation(4), operation(2, 0, true)};
  const auto seconds = [&] { return step_time(r, alone, inputs, compute_scale(r, 2, inputs)).step_seconds; };
  REQUIRE(seconds() == 8);
  inputs.one_rank_step_seconds = 16;
  REQUIRE(seconds() == 16);
  inputs.one_rank_step_seconds = 0;
  inputs.micro_batch_seconds = 12;
  REQUIRE(seconds() == 24 + 2);
  inputs.update_seconds = 1;
  REQUIRE(seconds() == 25);
}

// Catches: a measured micro-batch that is shared out by bytes alone, as if products took no time; a speed that a device
// was given and that is replaced.
TEST_CASE("speeds of a device that was only timed follow from its times") {
  Inputs inputs = plain_inputs();
  Rehearsal r;
  const auto moves = [](int64_t bytes, bool update) {
    StepEvent event = operation(0, 0, update);
    event.bytes = bytes;
    return event;
  };
  r.events = {operation(1), moves(512, false), moves(256, true)};
  inputs.micro_batch_seconds = 4;  // of which there are two
  inputs.update_seconds = 2;
  REQUIRE(with_speeds(r, 2, inputs).product_flop_per_second == 1024);
  inputs.product_flop_per_second = 0;
  const Inputs found = with_speeds(r, 2, inputs);
  REQUIRE(found.memory_bytes_per_second == 128);               // 256 bytes in 2 seconds
  REQUIRE(found.product_flop_per_second == 1024.0 / (8 - 4));  // 512 bytes take 4 of the 8 seconds
  const StepTime time = step_time(r, {.rank = 0, .ranks = 1, .shards = 1}, found, compute_scale(r, 2, found));
  REQUIRE(time.step_seconds == 10);
}

// Catches: stages that plan the same memory, the config's stage changed for the others, an efficiency of another number
// of ranks, idle ranks that nobody speaks of.
TEST_CASE("a plan has four stages, and its figures fit each other") {
  Config c = tiny_config(Strategy::mixed);
  c.device = "cuda";
  c.batch.micro_batch_size = 2;
  c.parallel.zero_stage = 2;
  const ScalePlan plan = plan_scale(c, 3, {.device = "h100", .links = "", .ranks_per_node = 0, .assignments = {}});
  REQUIRE(plan.stages.size() == 4);
  REQUIRE(plan.rounds == 2);  // four micro-batches
  for (const StagePlan& s : plan.stages) {
    INFO(s.stage);
    REQUIRE(s.chosen == (s.stage == 2));
    REQUIRE(s.time.step_seconds >= s.time.compute_seconds);
    REQUIRE(s.time.exposed_seconds() <= s.time.communication_seconds + 1e-12);
    REQUIRE_THAT(s.tokens_per_second * s.time.step_seconds,
                 WithinRel(static_cast<double>(c.batch.tokens_per_step), 1e-12));
    REQUIRE_THAT(s.efficiency * s.time.step_seconds * 3, WithinRel(plan.one_rank_step_seconds, 1e-12));
  }
  const auto memory = [&](size_t stage) { return plan.stages[stage].memory; };
  REQUIRE(memory(1).optimizer_state < memory(0).optimizer_state);
  REQUIRE(memory(2).gradients < memory(1).gradients);
  REQUIRE(memory(3).parameters < memory(2).parameters);
  REQUIRE(memory(0).activations == memory(3).activations);
  REQUIRE_THAT(text_of(plan), ContainsSubstring("2 ranks idle in the last") && ContainsSubstring("2 *"));
}

// Catches: a name that is taken silently for nothing, a word for a number, nodes without a network.
TEST_CASE("inputs that cannot be are refused with what is allowed") {
  const auto make = [](const InputChoice& choice, int ranks) { make_inputs(choice, DType::bf16, 1, ranks); };
  const auto with = [](const std::string& assignment) {
    return InputChoice{.device = "h100", .links = "", .ranks_per_node = 0, .assignments = {assignment}};
  };
  REQUIRE_THROWS_WITH(make({.device = "h200", .links = "", .ranks_per_node = 0, .assignments = {}}, 8),
                      ContainsSubstring("\"h200\" is not a known device") && ContainsSubstring("h100, cpu"));
  REQUIRE_THROWS_WITH(make({.device = "h100", .links = "nvlink5", .ranks_per_node = 0, .assignments = {}}, 8),
                      ContainsSubstring("\"nvlink5\" is not a known interconnect") && ContainsSubstring("ndr400"));
  REQUIRE_THROWS_WITH(make({.device = "h100", .links = "nvlink4", .ranks_per_node = 8, .assignments = {}}, 16),
                      ContainsSubstring("16 ranks at 8 a node") && ContainsSubstring("nvlink4+ndr400"));
  REQUIRE_THROWS_WITH(make(with("call_second=1"), 8),
                      ContainsSubstring("is not an input") && ContainsSubstring("call_seconds"));
  for (const char* bad :
       {"call_seconds=fast", "call_seconds", "call_seconds=", "call_seconds=-1", "call_seconds=nan"}) {
    REQUIRE_THROWS_WITH(make(with(bad), 8), ContainsSubstring("needs a number from 0"));
  }
  REQUIRE_THROWS_WITH(make(with("link_utilisation=1.1"), 8), ContainsSubstring("above 0 and up to 1"));
  REQUIRE_THROWS_WITH(make(with("ranks_per_node=2.5"), 8), ContainsSubstring("needs an integer from 1"));
  REQUIRE_THROWS_WITH(make(with("memory_bytes_per_second=0"), 8), ContainsSubstring("need numbers above 0"));
  REQUIRE(make_inputs(with("call_seconds=0.5"), DType::bf16, 1, 8).call_seconds == 0.5);
  const Inputs shared = make_inputs(
      {.device = "h100", .links = "nvlink4+ethernet100", .ranks_per_node = 4, .assignments = {}}, DType::bf16, 1, 8);
  REQUIRE(shared.between_bytes_per_second == 12.5e9 / 4);  // a node's
}

}  // namespace dither
