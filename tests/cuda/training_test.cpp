// Training on the CUDA backend against training on the CPU, and against itself.
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "src/training/tune.h"
#include "tests/catch.h"
#include "tests/training/outcome.h"

namespace dither {
namespace {

Config on(const char* device, Config config) {
  config.device = device;
  return config;
}

Config short_config(Strategy strategy, Architecture architecture) {
  Config config = tiny_config(strategy, architecture);
  config.batch.micro_batch_size = 2;
  config.batch.tokens_per_step = 3 * 2 * 24;  // three micro-batches: the first, one that is recorded, one replayed
  config.logging.measure_every_steps = 2;
  return config;
}

constexpr Architecture kBoth[] = {Architecture::gpt2, Architecture::llama};

}  // namespace

// In FP32 the backends differ by the order of sums alone: some 2^-24 a sum, which four steps at this learning rate
// carry on. In BF16 products round their results (2^-9) at the same places, but sums in another order round differently
// now and then: BF16 noise. Catches: an operation wired to the wrong tensor, a scale, a micro-batch lost or replayed
// wrongly.
TEST_CASE("losses and gradient norms on CUDA are the CPU's but for rounding", "[training]") {
  struct Case {
    Strategy strategy;
    double bound;
  };
  for (const Architecture architecture : kBoth) {
    for (const Case c : {Case{Strategy::fp32, 2e-5}, Case{Strategy::mixed, 2e-2}, Case{Strategy::bf16_sr, 2e-2}}) {
      const Config config = short_config(c.strategy, architecture);
      const Outcome cpu = run(on("cpu", config), 4), cuda = run(on("cuda", config), 4);
      INFO(strategy_info(c.strategy).name << (architecture == Architecture::gpt2 ? " gpt2" : " llama"));
      for (size_t i = 0; i < cpu.records.size(); ++i) {
        INFO("step " << i + 1);
        CHECK(cuda.records[i].loss == Approx(cpu.records[i].loss).epsilon(c.bound));
        CHECK(cuda.records[i].gradient_norm == Approx(cpu.records[i].gradient_norm).epsilon(5 * c.bound));
      }
    }
  }
}

// Catches: floating-point atomics, a race, memory read before it is written, a replay that differs from the first run.
TEST_CASE("two runs on CUDA have the same bits", "[training]") {
  for (const Strategy strategy : {Strategy::bf16_sr, Strategy::mixed, Strategy::collage_plus}) {
    const Config config = on("cuda", short_config(strategy, Architecture::llama));
    const Outcome first = run(config, 3);
    INFO(strategy_info(strategy).name);
    CHECK(run(config, 3).same_bits(first));
  }
}

// Catches: a buffer beside the plan, an allocation inside of a step.
TEST_CASE("on CUDA planned sizes equal allocated sizes, and no step allocates", "[training]") {
  for (const Architecture architecture : kBoth) {
    for (const Strategy strategy : {Strategy::fp32, Strategy::mixed, Strategy::collage_plus}) {
      const Config config = on("cuda", short_config(strategy, architecture));
      const TemporaryFolder folder;
      const TokenShards shards(write_shard(folder.path() + "/train.bin", 4000, 61));
      Engine engine(config);
      CHECK(engine.backend().allocated_bytes() == Engine::plan(config).total());
      const int64_t allocations = engine.backend().allocation_count();
      engine.initialise();
      Trainer trainer(engine, shards);
      trainer.step();
      trainer.step();
      CHECK(engine.backend().allocation_count() == allocations);
    }
  }
}

// Catches: a table whose keys are not those of a run's products, a key of the config that nobody reads.
TEST_CASE("a run uses the table that tune has made, and adds nothing to it", "[training]") {
  using Catch::Matchers::ContainsSubstring;
  Config config = on("cuda", short_config(Strategy::bf16_sr, Architecture::gpt2));
  const std::string table = tune(config);
  REQUIRE_THAT(table, ContainsSubstring("\"seconds\""));
  const TemporaryFolder folder;
  config.algorithms = folder.path() + "/algorithms.json";
  REQUIRE_THROWS_WITH(make_backend(config), ContainsSubstring("algorithms.json cannot be opened: No such file"));
  std::ofstream(config.algorithms) << table;
  const TokenShards shards(write_shard(folder.path() + "/train.bin", 4000, 61));
  Engine engine(config);
  engine.initialise();
  Trainer trainer(engine, shards);
  trainer.step();
  CHECK(engine.backend().algorithms() == table);
  REQUIRE_THROWS_WITH(tune(on("cpu", short_config(Strategy::bf16_sr, Architecture::gpt2))),
                      ContainsSubstring("there is nothing to tune on CPU"));
}

TEST_CASE("a model that does not fit on the device is refused before the first step, with the plan and a cure",
          "[training]") {
  Config config = on("cuda", short_config(Strategy::mixed, Architecture::gpt2));
  config.model.hidden = 65536;
  config.model.heads = config.model.kv_heads = 512;
  config.model.head_size = 128;
  config.model.ffn = 4 * 65536;
  config.model.layers = 64;
  using Catch::Matchers::ContainsSubstring;
  REQUIRE_THROWS_WITH(Engine(config), ContainsSubstring("the model does not fit: weights ") &&
                                          ContainsSubstring(" MiB of memory are free") &&
                                          ContainsSubstring("cures: a smaller batch.micro_batch_size"));
}

}  // namespace dither
