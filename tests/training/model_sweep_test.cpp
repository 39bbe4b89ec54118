// Every combination of a model's keys through a file of weights.
#include <cstring>

#include "src/checkpoint/safetensors.h"
#include "src/checkpoint/weights.h"
#include "src/training/evaluation.h"
#include "tests/catch.h"
#include "tests/training/tiny_run.h"

namespace dither {

namespace {

enum class Biases { none, qkv, all };

/// The model of one combination: a block of one head.
Config combination(Architecture architecture, Activation activation, Normalization normalization, Positions positions,
                   Biases biases, bool qk_norm, bool tied) {
  Config c = tiny_config(Strategy::bf16_sr, architecture);
  ModelConfig& m = c.model;
  m.layers = m.heads = m.kv_heads = 1;
  m.hidden = 32;
  m.ffn = 40;
  m.sequence_length = 8;
  m.activation = activation;
  m.normalization = normalization;
  m.positions = positions;
  m.linear_bias = biases == Biases::all;
  m.qkv_bias = biases == Biases::qkv;
  m.qk_norm = qk_norm;
  m.tied_embeddings = tied;
  c.batch.micro_batch_size = 2;
  c.batch.tokens_per_step = 2 * 8;
  c.parallel.threads = 1;
  return c;
}

std::string text_of(const ModelConfig& m) {
  std::string text = m.architecture == Architecture::gpt2 ? "gpt2" : "llama";
  text += m.activation == Activation::swiglu ? " swiglu" : " gelu";
  text += m.normalization == Normalization::layer_norm ? " layer_norm" : " rms_norm";
  text += m.positions == Positions::learned ? " learned" : " rotary";
  return text +
         (m.linear_bias ? " biases"
          : m.qkv_bias  ? " qkv bias"
                        : "") +
         (m.qk_norm ? " qk_norm" : "") + (m.tied_embeddings ? " tied" : "");
}

/// Another number in every place, so that none can be lost or exchanged unseen: initial biases are all 0.
void set_all(Engine& engine) {
  float value = 1;
  for (const Parameter& p : engine.table().parameters()) {
    std::vector<float> values(static_cast<size_t>(p.counted_elements()));
    for (float& v : values) {
      value = value >= 2 ? 1 : value + 0x1p-7f;
      v = (value - 1.5f) / 4;
    }
    engine.optimizer().set_weights(p, values);
  }
  engine.publish_weights();
}

void check_round_trip(const Config& config, const std::string& path) {
  INFO(text_of(config.model));
  Engine engine(config), other(config);
  set_all(engine);
  write_weights(path, config, 0, engine.table(), engine.parameters(), engine.backend(), {});
  int64_t elements = 0;
  const SafetensorsFile file(path);
  for (const SafetensorsTensor& tensor : file.tensors()) elements += tensor.bytes() / 2;
  CHECK(elements == engine.table().counted_elements());
  read_weights(path, other.table(), other.optimizer());
  other.publish_weights();
  const OwnedPart &ours = engine.parameters().owned().front(), &theirs = other.parameters().owned().front();
  CHECK(std::memcmp(ours.weight.data, theirs.weight.data, static_cast<size_t>(2 * ours.elements)) == 0);
  CHECK(Evaluator(config, nullptr).run(other).loss == Evaluator(config, nullptr).run(engine).loss);
}

}  // namespace

// Catches: a tensor whose parts in the file are not all of its rows (half of a gate under gpt2 with swiglu), parts in
// another order, two tensors of one name.
TEST_CASE("every combination of a model's keys writes all of its weights and reads them back") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/weights.safetensors", data = write_shard(folder.path() + "/v.bin", 33, 61);
  for (int i = 0; i < 2 * 2 * 2 * 2 * 3 * 2 * 2; ++i) {
    const auto bit = [i](int place) { return (i >> place & 1) != 0; };
    Config config =
        combination(bit(0) ? Architecture::gpt2 : Architecture::llama, bit(1) ? Activation::swiglu : Activation::gelu,
                    bit(2) ? Normalization::layer_norm : Normalization::rms_norm,
                    bit(3) ? Positions::learned : Positions::rotary, static_cast<Biases>(i / 64), bit(4), bit(5));
    config.data.validation = data;
    check_round_trip(config, path);
  }
}

}  // namespace dither
