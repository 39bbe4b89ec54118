// The rehearsed step against real ones: forked ranks with shared memory between them train the tiny model, and what
// their communicators counted and their backends allocated is what the rehearsal says, to the byte.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "src/parallel/shared_memory_communicator.h"
#include "src/planning/plan.h"
#include "src/planning/rehearsal.h"
#include "src/training/engine.h"
#include "src/training/trainer.h"
#include "tests/catch.h"
#include "tests/parallel/processes.h"
#include "tests/training/tiny_run.h"

namespace dither {
namespace {

struct Case {
  std::string name;
  Config config;
};

/// Every stage, way to sum and wire, and with four ranks groups of two; five micro-batches a step (seven on three
/// ranks), so that the last round is uneven. A tied model with an FP32 plane and an untied one take turns.
std::vector<Case> cases_of(int ranks, const std::string& corpus) {
  struct Sum {
    Reduction reduction;
    DType wire;
    const char* name;
  };
  std::vector<Case> cases;
  for (const Sum sum :
       {Sum{Reduction::bf16, DType::bf16, "bf16"}, Sum{Reduction::fp32, DType::fp32, "fp32"},
        Sum{Reduction::ordered, DType::fp32, "ordered"}, Sum{Reduction::ordered, DType::bf16, "ordered, wire bf16"}}) {
    for (int stage = 0; stage <= 3; ++stage) {
      for (const int group : {0, 2}) {
        if (group > 0 && (ranks != 4 || stage == 0)) continue;
        const bool tied = stage % 2 == 0;
        Config c =
            tiny_config(tied ? Strategy::bf16_sr : Strategy::mixed, tied ? Architecture::gpt2 : Architecture::llama);
        if (tied) c.precision.fp32_parameters = {ParameterKind::norm, ParameterKind::bias};
        c.data.train = corpus;
        c.parallel.threads = 1;
        c.parallel.zero_stage = stage;
        c.parallel.shard_group_size = group;
        c.parallel.reduction = sum.reduction;
        c.parallel.wire = sum.wire;
        c.batch.micro_batch_size = 2;
        c.batch.tokens_per_step = (ranks == 3 ? 7 : 5) * 2 * c.model.sequence_length;
        c.logging.measure_every_steps = 0;
        cases.push_back({fmt::format("{} ranks, stage {}, {}, groups of {}", ranks, stage, sum.name, group), c});
      }
    }
  }
  return cases;
}

void compare(const Case& c, int rank, int ranks, const std::string& job, Complaints& complaints) {
  const auto make_world = [&](Backend& backend) {
    return make_shared_memory_communicator(job, rank, ranks, backend, true);
  };
  Engine engine(c.config, make_cpu_backend(1), make_world);
  engine.initialise();
  const int64_t allocated = engine.backend().allocated_bytes();
  const TokenShards shards(c.config.data.train);
  Trainer trainer(engine, shards);
  trainer.step();
  const Traffic before = engine.ranks().traffic();
  trainer.step();
  const Traffic after = engine.ranks().traffic();
  const Rehearsal rehearsal = rehearse(c.config, rank, ranks);
  const auto equal = [&](const char* what, int64_t real, int64_t rehearsed) {
    complaints.expect(real == rehearsed,
                      fmt::format("{}, rank {}: {} {}, rehearsed {}", c.name, rank, what, real, rehearsed));
  };
  equal("calls", after.calls - before.calls, rehearsal.traffic.calls);
  equal("bytes", after.bytes - before.bytes, rehearsal.traffic.bytes);
  equal("allocated bytes", allocated, rehearsal.allocated_bytes);
  int64_t sent = 0;
  for (const Purpose purpose : {Purpose::gradients, Purpose::weights, Purpose::scalars})
    sent += rehearsal.sent(purpose);
  equal("bytes by purpose", after.bytes - before.bytes, sent);
}

}  // namespace

// Catches: a rehearsal that leaves a round or the update out, that takes a rank without a micro-batch for one with,
// groups and copies swapped, a wire that is counted in the type of storage, weights gathered once where a step gathers
// them again, a formula of bytes that differs from the communicator's.
TEST_CASE("what the rehearsal says of traffic and memory is what ranks count in a real step") {
  const int ranks = GENERATE(2, 3, 4);
  const TemporaryFolder folder;
  const std::string corpus = write_shard(folder.path() + "/train.bin", 4000, 61);
  const std::vector<Case> cases = cases_of(ranks, corpus);
  REQUIRE(cases.size() == (ranks == 4 ? 28 : 16));
  std::vector<std::string> jobs;  // a name for each, known to all
  for (size_t i = 0; i < cases.size(); ++i) jobs.push_back(unique_test_name());
  const std::string complaints = run_ranks(ranks, [&](int rank, Complaints& found) {
    for (size_t i = 0; i < cases.size(); ++i) compare(cases[i], rank, ranks, jobs[i], found);
  });
  REQUIRE(complaints == "");
}

// Catches: rounds that are not all alike taken for alike, a round too many or too few, traffic counted once.
TEST_CASE("rounds that stand for others give the step of all rounds") {
  const int stage = GENERATE(0, 1, 2, 3);
  const Reduction reduction = GENERATE(Reduction::fp32, Reduction::ordered);
  Config c = tiny_config(Strategy::mixed);
  c.model.layers = 5;
  c.batch.micro_batch_size = 1;
  c.batch.tokens_per_step = 35 * c.model.sequence_length;  // nine rounds of four, the last of three
  c.parallel.zero_stage = stage;
  c.parallel.reduction = reduction;
  if (reduction == Reduction::fp32) c.parallel.wire = DType::fp32;
  for (const int rank : {0, 3}) {
    const Rehearsal all = rehearse(c, rank, 4, true), few = rehearse(c, rank, 4);
    REQUIRE(few.alike_rounds == 6);
    REQUIRE(few.events.size() < all.events.size());
    std::vector<StepEvent> spread(few.events.begin(), few.events.begin() + static_cast<long>(few.alike_begin));
    for (int64_t round = 0; round < few.alike_rounds; ++round) {
      spread.insert(spread.end(), few.events.begin() + static_cast<long>(few.alike_begin),
                    few.events.begin() + static_cast<long>(few.alike_end));
    }
    spread.insert(spread.end(), few.events.begin() + static_cast<long>(few.alike_end), few.events.end());
    REQUIRE(spread.size() == all.events.size());
    for (size_t i = 0; i < spread.size(); ++i) {
      const StepEvent &a = spread[i], &b = all.events[i];
      REQUIRE((a.kind == b.kind && a.stream == b.stream && a.update == b.update && a.collective == b.collective &&
               a.circle == b.circle && a.purpose == b.purpose && a.flop == b.flop && a.bytes == b.bytes &&
               a.sent == b.sent));
    }
    REQUIRE(few.traffic.calls == all.traffic.calls);
    REQUIRE(few.traffic.bytes == all.traffic.bytes);
    REQUIRE(few.sent(Purpose::gradients) == all.sent(Purpose::gradients));
    REQUIRE(few.allocated_bytes == all.allocated_bytes);
  }
}

// Catches: a rank left out whose lists are longer than those of all that are looked at.
TEST_CASE("the ranks that are looked at have the largest plan of all") {
  const int ranks = GENERATE(1, 6, 8, 60, 96);
  const int group = GENERATE(0, 2);
  const Reduction reduction = GENERATE(Reduction::fp32, Reduction::ordered);
  if (ranks == 1 && group > 0) return;
  for (const Architecture architecture : {Architecture::gpt2, Architecture::llama}) {
    Config c = tiny_config(Strategy::mixed, architecture);
    c.precision.fp32_parameters = {ParameterKind::norm};
    c.parallel.zero_stage = GENERATE(0, 1, 3);
    c.parallel.shard_group_size = group;
    c.parallel.reduction = reduction;
    const ParameterTable table(c, ranks);
    int64_t largest = 0, largest_found = 0;
    for (int r = 0; r < ranks; ++r) largest = std::max(largest, Engine::plan(c, table, r, ranks).total());
    for (const int r : differing_ranks(table, partition_of(c.parallel, 0, ranks))) {
      largest_found = std::max(largest_found, Engine::plan(c, table, r, ranks).total());
    }
    REQUIRE(largest_found == largest);
  }
}

// Catches: a plan whose time grows with the number of ranks, or with the square of that of layers.
TEST_CASE("plans of 65,536 ranks and of 1,024 layers take no minutes") {
  Config c = tiny_config(Strategy::mixed);
  InputChoice choice;
  choice.device = "h100";
  const auto begin = std::chrono::steady_clock::now();
  c.batch.tokens_per_step = 100'000 * int64_t{c.batch.micro_batch_size} * c.model.sequence_length;
  REQUIRE(plan_scale(c, 65536, choice).stages.size() == 4);
  c.model.layers = 1024;
  const ScalePlan deep = plan_scale(c, 8, choice);
  REQUIRE(deep.rounds == 12500);
  REQUIRE(deep.stages[3].calls > 12500 * 1024);
  REQUIRE(std::chrono::steady_clock::now() - begin < std::chrono::seconds(20));  // minutes before; sanitizers are slow
}

// Catches: bytes in the type of storage, weights that travel at stage 0, scalars among gradients, a gathering at stage
// 3 that the slots make needless, or one too few.
TEST_CASE("what is sent at each stage follows the textbook's formulas") {
  Config c = tiny_config(Strategy::mixed);  // weights BF16, gradients FP32
  c.model.layers = 4;
  c.batch.micro_batch_size = 1;  // eight micro-batches: two rounds
  const int ranks = 4;
  const auto rehearsed = [&](int stage) {
    c.parallel.zero_stage = stage;
    return rehearse(c, 0, ranks);
  };
  const ParameterTable table(c, ranks);
  const int64_t others = (table.flat_elements(Plane::strategy)) / ranks * (ranks - 1);  // shards of the others
  REQUIRE(rehearsed(0).sent(Purpose::gradients) == 2 * others * 4);
  REQUIRE(rehearsed(0).sent(Purpose::weights) == 0);
  REQUIRE(rehearsed(1).sent(Purpose::gradients) == others * 4);
  REQUIRE(rehearsed(1).sent(Purpose::weights) == others * 2);
  REQUIRE(rehearsed(2).sent(Purpose::gradients) == 2 * others * 4);  // in both rounds
  REQUIRE(rehearsed(2).sent(Purpose::weights) == others * 2);        // after the update
  // Stage 3: embedding and head in both rounds; of the four blocks the two last ones are still there when backward
  // begins, and the two first ones when the next round does: 4 + 2, then 2 + 2.
  const int64_t block = table.buckets()[1].elements();
  const int64_t gathered = 2 * (table.flat_elements(Plane::strategy) - 4 * block) + 10 * block;
  REQUIRE(rehearsed(3).sent(Purpose::gradients) == 2 * others * 4);
  REQUIRE(rehearsed(3).sent(Purpose::weights) == gathered / ranks * (ranks - 1) * 2);
  REQUIRE(rehearsed(3).sent(Purpose::scalars) ==
          2 * (ranks - 1) * (2 * 7 + 3) * 8 / ranks);  // two exact sums, three counts
}

}  // namespace dither
