// The training loop as a whole: it learns, it repeats, it keeps to its plan, and it survives bad steps.
#include "src/training/trainer.h"

#include <malloc.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/catch.h"
#include "tests/training/outcome.h"

namespace dither {

namespace {

std::vector<std::pair<Strategy, std::string>> all_strategies() {
  std::vector<std::pair<Strategy, std::string>> list;
  for (const StrategyInfo& info : kStrategies) list.emplace_back(info.id, info.name);
  return list;
}

Config in_micro_batches(Config config, int size) {
  config.batch.micro_batch_size = size;
  return config;
}

}  // namespace

// Catches: a gradient of the wrong sign or scale anywhere, an update that is lost, a forgotten bias correction.
TEST_CASE("every strategy learns a text that counts, from chance to half of it") {
  for (const Architecture architecture : {Architecture::gpt2, Architecture::llama}) {
    for (const auto& [strategy, name] : all_strategies()) {
      const Outcome outcome = run(tiny_config(strategy, architecture), 60);
      INFO(name << (architecture == Architecture::gpt2 ? " gpt2" : " llama"));
      CHECK(outcome.records.front().loss == Approx(std::log(61.0)).epsilon(0.03));
      CHECK(outcome.records.back().loss < 2.0);
    }
  }
}

// Catches: state outside of the config, uninitialised memory, sums whose order depends on the scheduling of threads.
TEST_CASE("ten training steps of every strategy give the same bits again, with 1, 2 and 4 threads") {
  for (const auto& [strategy, name] : all_strategies()) {
    Config config = tiny_config(strategy);
    config.batch.tokens_per_step *= 2;
    config.precision.first_moment_rounding = config.precision.second_moment_rounding = Rounding::stochastic;
    const Outcome first = run(config, 10);
    for (const int threads : {1, 2, 4}) {
      config.parallel.threads = threads;
      INFO(name << " with " << threads << " threads");
      CHECK(run(config, 10).same_bits(first));
    }
    config.seed = 8;
    CHECK_FALSE(run(config, 10).same_bits(first));
  }
}

// The cut changes the order of sums: FP32 by a few 2^-24 of sums over 192 tokens; BF16 by the rounding of each half's
// gradient (2^-8, random signs) on top. Catches: a micro-batch lost, counted twice, or scaled by its own size.
TEST_CASE("one micro-batch of 8 and two of 4 agree to rounding") {
  struct Case {
    Strategy strategy;
    double bound;
  };
  for (const Case c : {Case{Strategy::fp32, 1e-5}, Case{Strategy::mixed, 5e-3}, Case{Strategy::bf16_sr, 1e-2}}) {
    const Config config = tiny_config(c.strategy, Architecture::gpt2);
    const Outcome whole = run(config, 3), halves = run(in_micro_batches(config, 4), 3);
    INFO(strategy_info(c.strategy).name);
    for (size_t i = 0; i < 3; ++i) {
      CHECK(halves.records[i].loss == Approx(whole.records[i].loss).epsilon(c.bound));
      CHECK(halves.records[i].gradient_norm == Approx(whole.records[i].gradient_norm).epsilon(5 * c.bound));
    }
  }
}

TEST_CASE("planned sizes equal allocated sizes") {
  for (const Architecture architecture : {Architecture::gpt2, Architecture::llama}) {
    for (const auto& [strategy, name] : all_strategies()) {
      for (const int micro_batch : {8, 4}) {
        const Config config = in_micro_batches(tiny_config(strategy, architecture), micro_batch);
        Engine engine(config);
        CHECK(engine.backend().allocated_bytes() == Engine::plan(config).total());
      }
    }
  }
}

// Catches: a plane whose gradients, norm, update or initial values are forgotten, biases read as BF16, a tied embedding
// that reaches the head without its cast, a plan that counts one plane.
TEST_CASE("tensors kept in FP32 learn beside BF16 ones, and repeat") {
  for (const Architecture architecture : {Architecture::gpt2, Architecture::llama}) {
    for (const Strategy strategy : {Strategy::bf16_sr, Strategy::mixed, Strategy::collage_plus}) {
      Config config = tiny_config(strategy, architecture);
      config.precision.fp32_parameters = {ParameterKind::norm, ParameterKind::bias, ParameterKind::embedding};
      INFO(strategy_info(strategy).name << (architecture == Architecture::gpt2 ? " gpt2" : " llama"));
      const Outcome outcome = run(config, 60);
      CHECK(outcome.records.back().loss < 2.0);
      CHECK(run(config, 60).same_bits(outcome));
      config.batch.micro_batch_size = 4;
      CHECK(run(config, 60).records.back().loss < 2.0);
      Engine engine(config);
      CHECK(engine.backend().allocated_bytes() == Engine::plan(config).total());
    }
  }
}

// A gain begins at 1, where a BF16 step is 2^-8 downward: ten updates of 1e-4 round away, one by one. Catches: gains
// that stay in BF16, other tensors that come along.
TEST_CASE("under bf16 a small update of a gain is lost, unless norms are kept in FP32") {
  for (const bool kept : {false, true}) {
    Config config = tiny_config(Strategy::bf16);
    config.optimizer.learning_rate = 1e-4;
    if (kept) config.precision.fp32_parameters = {ParameterKind::norm};
    const TemporaryFolder folder;
    const TokenShards shards(write_shard(folder.path() + "/train.bin", 4000, 61));
    Engine engine(config);
    engine.initialise();
    Trainer trainer(engine, shards);
    StepMeasures measures;
    for (int i = 0; i < 10; ++i) {
      const StepRecord record = trainer.step().record;
      if (record.measured) measures = record.measures;
    }
    const UpdateMeasures& norm = measures.groups[static_cast<size_t>(ParameterGroup::norm)];
    const UpdateMeasures& matrices = measures.groups[static_cast<size_t>(ParameterGroup::feed_forward)];
    CHECK(norm.imprecision == (kept ? 0.0 : 100.0));
    CHECK(norm.edq == (kept ? Approx(1).epsilon(1e-2) : Approx(0).margin(0)));
    CHECK(norm.update_to_ulp < 0.02);  // 1e-4 over 2^-7, the step above 1
    CHECK(matrices.imprecision > 10);  // of weights near 0.02, whose step is 40 times as fine
    CHECK(matrices.imprecision < 90);
  }
}

// Catches: any difference but the products: another gradient, residual stream, initial value or update.
TEST_CASE("training with mixed_autocast and FP32 products is training with fp32, bit for bit") {
  for (const Architecture architecture : {Architecture::gpt2, Architecture::llama}) {
    Config autocast = tiny_config(Strategy::mixed_autocast, architecture);
    const Outcome fp32 = run(tiny_config(Strategy::fp32, architecture), 10);
    CHECK(run(autocast, 10).records.back().loss != fp32.records.back().loss);
    autocast.precision.compute = DType::fp32;
    CHECK(run(autocast, 10).same_bits(fp32));
  }
}

// Catches: a buffer built anew in each step, a cache of products that keeps growing.
TEST_CASE("no step after the third allocates memory") {
  const TemporaryFolder folder;
  const TokenShards shards(write_shard(folder.path() + "/train.bin", 4000, 61));
  Engine engine(in_micro_batches(tiny_config(Strategy::bf16_sr), 4));
  engine.initialise();
  Trainer trainer(engine, shards);
  for (int i = 0; i < 3; ++i) trainer.step();
  const int64_t allocations = engine.backend().allocation_count();
  const struct mallinfo2 before = mallinfo2();
  for (int i = 0; i < 12; ++i) trainer.step();
  const struct mallinfo2 after = mallinfo2();
  CHECK(engine.backend().allocation_count() == allocations);
  // What the heap holds must not grow; a deque of the guards may add one of its 512-byte blocks now and then.
  CHECK(after.uordblks <= before.uordblks + 2048);
  CHECK(after.hblkhd <= before.hblkhd);
}

// Catches: a skipped step that changes moments, stops the clock, or applies after all.
TEST_CASE("a step whose loss is not finite leaves weights and moments as they are, but counts") {
  const TemporaryFolder folder;
  const TokenShards shards(write_shard(folder.path() + "/train.bin", 4000, 61));
  Config config = tiny_config(Strategy::bf16_sr);
  config.guards.stop_after_skips = 3;
  Engine engine(config);
  engine.initialise();
  Trainer trainer(engine, shards);
  REQUIRE_FALSE(trainer.step().record.skipped);

  const Parameter* gain = engine.table().find(engine.table().final_bucket(), Role::final_norm_weight);
  std::vector<float> poison(static_cast<size_t>(gain->elements()), std::numeric_limits<float>::infinity());
  engine.optimizer().set_weights(*gain, poison);
  const std::vector<char> before = state_of(engine);
  for (int64_t i = 1; i <= 3; ++i) {
    CHECK_FALSE(trainer.must_stop());
    const StepResult result = trainer.step();
    CHECK(result.record.skipped);
    CHECK(result.record.step == 1 + i);
    CHECK(result.verdict.reason == "loss not finite");
    CHECK(result.verdict.skipped_in_a_row == i);
  }
  CHECK(trainer.must_stop());
  CHECK(trainer.skipped_steps() == 3);
  CHECK(trainer.samples_consumed() == 4 * 8);
  CHECK(state_of(engine) == before);
}

// Catches: a clip factor applied twice or not at all: with a tiny limit the norm that reaches AdamW is that limit, and
// AdamW's first step is blind to scale, so only epsilon tells.
TEST_CASE("clipping scales the gradient to the limit and says by how much") {
  Config config = tiny_config(Strategy::fp32);
  config.optimizer.gradient_clip = 0.01;
  const StepRecord record = run(config, 1).records[0];
  CHECK(record.gradient_norm > 0.01);
  CHECK(record.clip_factor == Approx(0.01 / record.gradient_norm).epsilon(1e-6));
  config.optimizer.gradient_clip = 0;
  CHECK(run(config, 1).records[0].clip_factor == 1.0);
}

// A weight's second component begins with what RN cut off the FP32 draw, so even leading components move on time in the
// mean; only the full state moves by D itself. Catches: EDQ of rounded D, of the wrong component, or with the wrong
// sign.
TEST_CASE("EDQ is 1 where nothing is lost, below it where RN loses updates, and a second component brings it back") {
  CHECK(run(tiny_config(Strategy::fp32), 1).records[0].measures.model.edq == Approx(1).epsilon(1e-4));
  Config slow = tiny_config(Strategy::bf16);
  slow.optimizer.learning_rate = 1e-5;
  CHECK(run(slow, 1).records[0].measures.model.edq < 0.9);
  slow.precision.strategy = Strategy::collage_light;
  const UpdateMeasures collage = run(slow, 1).records[0].measures.model;
  CHECK(std::abs(collage.edq_full - 1) < 0.01);
  CHECK(std::abs(collage.edq_full - 1) <= std::abs(collage.edq - 1));
  CHECK(collage.imprecision > 50);
}

}  // namespace dither
