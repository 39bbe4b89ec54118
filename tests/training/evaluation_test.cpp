// Validation loss, and weights that go through a file.
#include "src/training/evaluation.h"

#include <cmath>
#include <cstring>
#include <functional>

#include "base/error.h"
#include "src/checkpoint/safetensors.h"
#include "src/checkpoint/weights.h"
#include "src/training/sampler.h"
#include "src/training/trainer.h"
#include "tests/catch.h"
#include "tests/training/tiny_run.h"

namespace dither {

namespace {

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

std::vector<char> weights_of(Engine& engine) {
  const OwnedPart& whole = engine.parameters().owned().front();
  std::vector<char> bytes(static_cast<size_t>(whole.elements * size_of(whole.weight.type)));
  std::memcpy(bytes.data(), whole.weight.data, bytes.size());
  return bytes;
}

}  // namespace

// Catches: a last micro-batch that is dropped, repeated, or averaged with the wrong weight.
TEST_CASE("the validation loss does not depend on the micro-batch, and counts every window once") {
  const TemporaryFolder folder;
  const int64_t windows = 13;
  Config config = tiny_config(Strategy::fp32);
  config.data.validation = write_shard(folder.path() + "/val.bin", windows * 24 + 5, 61);
  config.evaluation.batches = 0;
  double loss = 0;
  for (const int micro_batch : {1, 4, 8}) {
    config.batch.micro_batch_size = micro_batch;
    Engine engine(config);
    engine.initialise();
    const EvaluationResult result = Evaluator(config, nullptr).run(engine);
    CHECK(result.targets == windows * 24);
    CHECK(result.perplexity == Approx(std::exp(result.loss)));
    CHECK(std::isnan(result.bits_per_byte));
    if (micro_batch == 1) loss = result.loss;
    CHECK(result.loss == Approx(loss).epsilon(1e-7));
  }
  config.evaluation.batches = 1;
  config.batch.micro_batch_size = 4;
  Engine engine(config);
  engine.initialise();
  CHECK(Evaluator(config, nullptr).run(engine).targets == 4 * 24);
}

// With one byte a token, bits per byte are the loss in bits; end of text stands for no byte but is still predicted.
TEST_CASE("bits per byte divide the whole loss by the bytes of the targets") {
  const TemporaryFolder folder;
  Config config = tiny_config(Strategy::fp32);
  config.model.vocabulary = 257;
  config.data.validation = write_shard(folder.path() + "/val.bin", 8 * 24 + 1, 257);
  config.evaluation.batches = 0;
  const Tokenizer tokenizer = byte_tokenizer();
  Engine engine(config);
  engine.initialise();
  const EvaluationResult result = Evaluator(config, &tokenizer).run(engine);
  const TokenShards shards(config.data.validation);
  const int64_t bytes = 8 * 24 - shards.count_of(0, 1, 8 * 24, 256);
  CHECK(result.bits_per_byte ==
        Approx(result.loss / std::log(2.0) * static_cast<double>(result.targets) / static_cast<double>(bytes)));
}

// Catches: a part in the wrong rows, a transposition forgotten on one side, padded rows written, a lost extra
// component.
TEST_CASE("weights come back from a file with the same bits") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/weights.safetensors";
  for (const Architecture architecture : {Architecture::gpt2, Architecture::llama}) {
    for (const Strategy strategy : {Strategy::fp32, Strategy::bf16_sr}) {
      const Config config = tiny_config(strategy, architecture);
      Engine engine(config), other(config);
      engine.initialise();
      write_weights(path, config, 0, engine.table(), engine.parameters(), engine.backend(), {});
      read_weights(path, other.table(), other.optimizer());
      CHECK(weights_of(other) == weights_of(engine));
      std::vector<std::string> warnings;
      CHECK(to_json(read_config(path, {}, warnings)) == to_json(config));
    }
  }
  const SafetensorsFile file(path);
  CHECK(file.at("model.embed_tokens.weight").shape == std::vector<int64_t>{61, 64});
  CHECK(file.at("model.layers.1.self_attn.k_proj.weight").shape == std::vector<int64_t>{32, 64});
}

TEST_CASE("weights of another model are refused with the tensor's name") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/weights.safetensors";
  Config config = tiny_config(Strategy::bf16_sr);
  Engine engine(config);
  engine.initialise();
  write_weights(path, config, 0, engine.table(), engine.parameters(), engine.backend(), {});

  config.model.ffn = 104;
  Engine wider(config);
  CHECK(error_of([&] { read_weights(path, wider.table(), wider.optimizer()); }) ==
        path + ": model.layers.0.mlp.gate_proj.weight has shape [96,64], this model needs [104,64]");
  config.model.ffn = 96;
  config.model.layers = 1;
  Engine shallower(config);
  CHECK(error_of([&] {
          read_weights(path, shallower.table(), shallower.optimizer());
        }).find("belongs to no parameter of this model") != std::string::npos);
}

// Catches: random bits that depend on anything but seed, step and position; a context cut at the wrong end.
TEST_CASE("sampling repeats, changes with the seed, and goes on past the sequence length") {
  const TemporaryFolder folder;
  Config config = tiny_config(Strategy::bf16_sr);
  config.model.vocabulary = 257;
  SamplingConfig sampling;
  sampling.prompt = "It was";
  sampling.tokens = 40;
  sampling.temperature = 1;
  const Tokenizer tokenizer = byte_tokenizer();
  Engine engine(config);
  engine.initialise();
  const std::string text = generate(engine, tokenizer, sampling, 5);
  CHECK(text.substr(0, 6) == "It was");
  CHECK(generate(engine, tokenizer, sampling, 5) == text);
  CHECK(generate(engine, tokenizer, sampling, 6) != text);
  config.model.vocabulary = 61;
  Engine other(config);
  CHECK(error_of([&] { generate(other, tokenizer, sampling, 0); }) ==
        "the byte tokenizer: the tokenizer has 257 tokens, the model 61 (model.vocabulary): they belong to different "
        "data, and text cannot be sampled");
}

// Catches: a vocabulary above the tokenizer's that is refused, ids without a token that are drawn.
TEST_CASE("a model with more ids than its tokenizer has tokens draws none of the others") {
  Config config = tiny_config(Strategy::fp32);
  config.model.vocabulary = 4096;  // an untrained model draws one of the first 257 once in sixteen
  SamplingConfig sampling;
  sampling.prompt = "It was";
  sampling.tokens = 60;
  sampling.temperature = 1;
  sampling.top_k = 0;
  sampling.top_p = 1;
  Engine engine(config);
  engine.initialise();
  const std::string text = generate(engine, byte_tokenizer(), sampling, 1);  // would throw for an id from 257 on
  CHECK(text.substr(0, 6) == "It was");
  CHECK(text.size() > 6);
}

// Catches: a single process that takes the ranks' sharing for its own.
TEST_CASE("a config that shares out among ranks is evaluated by one process too") {
  const TemporaryFolder folder;
  Config config = tiny_config(Strategy::bf16_sr);
  config.data.validation = write_shard(folder.path() + "/val.bin", 2000, 61);
  Engine plain(config);
  config.parallel.zero_stage = 2;
  config.parallel.shard_group_size = 2;
  Engine engine(config);
  CHECK(engine.backend().allocated_bytes() == Engine::plan(config).total());
  plain.initialise();
  engine.initialise();
  Evaluator evaluator(config, nullptr);
  CHECK(evaluator.run(engine).loss == evaluator.run(plain).loss);
}

}  // namespace dither
