// Validation loss, and weights that go through a file.
#include "src/training/evaluation.h"

#include <cmath>
#include <cstring>
#include <fstream>
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

/// A shard of these ids.
std::string write_ids(const std::string& path, const std::vector<int32_t>& ids) {
  write_shard(path, static_cast<int64_t>(ids.size()), 2);
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(kShardHeaderBytes);
  for (const int32_t id : ids) {
    const auto word = static_cast<uint16_t>(id);
    file.write(reinterpret_cast<const char*>(&word), sizeof(word));
  }
  return path;
}

/// The bytes, "th" and "the".
Tokenizer pair_tokenizer() {
  std::string file = byte_tokenizer().serialize();
  const uint32_t vocabulary = 259;
  std::memcpy(file.data() + 8, &vocabulary, sizeof(vocabulary));
  return Tokenizer::parse(file + "\x02th\x03the", "pairs");
}

}  // namespace

// Catches: a number of targets that is chosen in micro-batches or sequences, a last micro-batch or partial window that
// is dropped, repeated or averaged with the wrong weight, padding that is judged.
TEST_CASE("the validation loss does not depend on the micro-batch, nor what is judged on the sequence length") {
  const TemporaryFolder folder;
  Config config = tiny_config(Strategy::fp32);
  config.data.validation = write_shard(folder.path() + "/val.bin", 3 * kSegmentTargets + 100, 61);
  config.evaluation.tokens = 2500;
  std::string judged;
  for (const int T : {64, 128}) {
    config.model.sequence_length = T;
    double loss = 0;
    for (const int micro_batch : {1, 2, 4, 8}) {
      config.batch.micro_batch_size = micro_batch;
      config.batch.tokens_per_step = micro_batch * T;
      Engine engine(config);
      engine.initialise();
      Evaluator evaluator(config, nullptr);
      const EvaluationResult result = evaluator.run(engine);
      CHECK(result.targets == 2500);
      CHECK(result.perplexity == Approx(std::exp(result.loss)));
      CHECK(std::isnan(result.bits_per_byte));
      CHECK(evaluator.data().set_targets == 3 * kSegmentTargets + 99);
      if (judged.empty()) judged = evaluator.data().judged;
      CHECK(evaluator.data().judged == judged);
      if (micro_batch == 1) loss = result.loss;
      CHECK(result.loss == Approx(loss).epsilon(1e-7));
    }
  }
}

// The mean over one window's targets, of logits that a longer row of the same tokens gives too. Catches: rows that see
// their padding, positions that go on from window to window, targets shifted by one.
TEST_CASE("a partial window has the loss of its targets at the head of a whole one") {
  const TemporaryFolder folder;
  Config config = tiny_config(Strategy::fp32);
  config.data.validation = write_shard(folder.path() + "/val.bin", 25, 61);
  config.evaluation.tokens = 10;
  Engine engine(config);
  engine.initialise();
  const double loss = Evaluator(config, nullptr).run(engine).loss;
  const TokenShards shards(config.data.validation);
  std::vector<int32_t> tokens(24), targets(24, kIgnoredTarget);
  shards.read(0, 0, 24, 61, tokens.data());
  shards.read(0, 1, 10, 61, targets.data());
  engine.begin_evaluation();
  engine.model().load(tokens.data(), targets.data(), 1, 24);
  engine.model().forward();
  engine.model().evaluate(engine.evaluation_sum());
  CHECK(engine.add_evaluation({}).loss.value() / 10 == loss);
}

// Catches: a text's hash that depends on how it is cut into tokens, or not on the text; one where a part is judged.
TEST_CASE("two tokenizers on one text judge the same text") {
  const TemporaryFolder folder;
  Config config = tiny_config(Strategy::fp32);
  config.model.vocabulary = 259;
  const Tokenizer bytes = byte_tokenizer();
  const Tokenizer pairs = pair_tokenizer();
  const auto judge = [&](const std::string& name, const std::string& text, const Tokenizer& tokenizer, int64_t wanted) {
    std::vector<int32_t> ids = {tokenizer.end_of_text()};
    for (const int32_t id : tokenizer.encode(text)) ids.push_back(id);
    config.data.validation = write_ids(folder.path() + "/" + name, ids);
    config.evaluation.tokens = wanted;
    return Evaluator(config, &tokenizer).data();
  };
  const std::string text = "the other thing in the end";
  const JudgedData a = judge("a.bin", text, bytes, 0), b = judge("b.bin", text, pairs, 0);
  CHECK(a.text == b.text);
  CHECK(a.judged != b.judged);
  CHECK(a.tokenizer != b.tokenizer);
  CHECK(a.set_targets > b.set_targets);
  CHECK(judge("c.bin", text + ".", bytes, 0).text != a.text);
  CHECK(judge("d.bin", text, bytes, 5).text.empty());
  CHECK(judge("e.bin", text, bytes, 0).judged == a.judged);
}

// With one byte a token, bits per byte are the loss in bits; end of text stands for no byte but is still predicted.
TEST_CASE("bits per byte divide the whole loss by the bytes of the targets") {
  const TemporaryFolder folder;
  Config config = tiny_config(Strategy::fp32);
  config.model.vocabulary = 257;
  config.data.validation = write_shard(folder.path() + "/val.bin", 8 * 24 + 1, 257);
  config.evaluation.tokens = 0;
  const Tokenizer tokenizer = byte_tokenizer();
  Engine engine(config);
  engine.initialise();
  const EvaluationResult result = Evaluator(config, &tokenizer).run(engine);
  const TokenShards shards(config.data.validation);
  const int64_t bytes = 8 * 24 - shards.count_of(0, 1, 8 * 24, 256);
  CHECK(result.bytes == bytes);
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
      CHECK(to_json(read_config(path, {}, warnings)) == to_json(parse_config(to_json(config), path, {}, warnings)));
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
