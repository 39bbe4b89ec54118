// Model presets against what was published, and free dimensions.

#include "src/config/presets.h"

#include "tests/config/helpers.h"

namespace dither {
namespace {

Config with_preset(const std::string& name) { return parsed(small_with(R"({"model": {"preset": ")" + name + "\"}}")); }

std::string to_string_of_precision(const Config& config) {
  return nlohmann::json::parse(to_json(config)).at("precision").dump();
}

/// Parameters of a model: embeddings, then per layer two norms, attention and feed-forward layer, the last norm, head.
int64_t count_parameters(const ModelConfig& m) {
  const int64_t C = m.hidden, F = m.ffn, D = m.head_size;
  const int64_t qkv = (m.heads + 2 * int64_t{m.kv_heads}) * D;  // rows of the QKV projection
  const int64_t attended = m.heads * D;
  const int64_t norm = m.normalization == Normalization::layer_norm ? 2 * C : C;
  const int64_t matrices = m.activation == Activation::swiglu ? 3 : 2;

  int64_t layer = 2 * norm + qkv * C + C * attended + matrices * C * F;
  if (m.linear_bias) layer += qkv + C + (matrices - 1) * F + C;
  if (m.qkv_bias) layer += qkv;
  if (m.qk_norm) layer += 2 * D;
  int64_t total = m.vocabulary * C + m.layers * layer + norm;
  if (m.positions == Positions::learned) total += m.sequence_length * C;
  if (!m.tied_embeddings) total += m.vocabulary * C;
  return total;
}

// Counts of the published weights (Hugging Face files). The rotary GPTs have no published files; theirs follow from the
// paper's table: 12 L C^2 + 13 L C of the blocks (FFN 4C, biases, two LayerNorms), 2 V C of untied embeddings, 2 C.
// Catches: a dimension mistyped, a tie or a bias forgotten, heads that are not grouped.
TEST_CASE("every preset has the published number of parameters") {
  const auto rotary = [](int64_t layers, int64_t C) { return layers * (12 * C * C + 13 * C) + 2 * 50257 * C + 2 * C; };
  const std::vector<std::pair<std::string, int64_t>> published = {{"gpt2-124m", 124439808},
                                                                  {"gpt2-350m", 354823168},
                                                                  {"gpt2-774m", 774030080},
                                                                  {"gpt2-1558m", 1557611200},
                                                                  {"llama-tiny", 2484864},
                                                                  {"tinyllama-1.1b", 1100048384},
                                                                  {"llama-3.2-1b", 1235814400},
                                                                  {"llama-2-7b", 6738415616},
                                                                  {"llama-3.1-8b", 8030261248},
                                                                  {"qwen2.5-0.5b", 494032768},
                                                                  {"qwen2.5-1.5b", 1543714304},
                                                                  {"qwen2.5-3b", 3085938688},
                                                                  {"qwen2.5-7b", 7615616512},
                                                                  {"gpt-rotary-125m", rotary(12, 768)},
                                                                  {"gpt-rotary-1.3b", rotary(24, 2048)},
                                                                  {"gpt-rotary-2.7b", rotary(32, 2560)},
                                                                  {"gpt-rotary-6.7b", rotary(32, 4096)}};
  REQUIRE(published.size() == model_presets().size());
  for (size_t i = 0; i < published.size(); ++i) {
    INFO(published[i].first);
    CHECK(published[i].first == model_presets()[i]);
    CHECK(count_parameters(with_preset(published[i].first).model) == published[i].second);
  }
}

// What no count of parameters shows.
TEST_CASE("presets have the published constants") {
  const ModelConfig gpt2 = with_preset("gpt2-124m").model;
  CHECK(gpt2.architecture == Architecture::gpt2);
  CHECK(gpt2.normalization == Normalization::layer_norm);
  CHECK(gpt2.activation == Activation::gelu);
  CHECK(gpt2.norm_epsilon == 1e-5);
  CHECK(gpt2.init_std == 0.02);
  CHECK(gpt2.sequence_length == 1024);

  const ModelConfig llama32 = with_preset("llama-3.2-1b").model, llama31 = with_preset("llama-3.1-8b").model;
  CHECK(llama32.rotary_scaling == RotaryScaling::llama3);
  CHECK(llama32.rotary_factor == 32);
  CHECK(llama31.rotary_factor == 8);
  CHECK(llama31.rotary_base == 500000);
  CHECK(llama31.rotary_low_frequency == 1);
  CHECK(llama31.rotary_high_frequency == 4);
  CHECK(llama31.rotary_original_length == 8192);
  CHECK(llama32.tied_embeddings);
  CHECK_FALSE(llama31.tied_embeddings);

  const ModelConfig llama2 = with_preset("llama-2-7b").model;
  CHECK(llama2.rotary_base == 10000);
  CHECK(llama2.rotary_scaling == RotaryScaling::none);
  CHECK(llama2.norm_epsilon == 1e-5);

  const ModelConfig qwen = with_preset("qwen2.5-7b").model;
  CHECK(qwen.rotary_base == 1e6);
  CHECK(qwen.norm_epsilon == 1e-6);
  CHECK_FALSE(qwen.linear_bias);

  const ModelConfig rotary = with_preset("gpt-rotary-2.7b").model;
  CHECK(rotary.positions == Positions::rotary);
  CHECK(rotary.rotary_base == 10000);
  CHECK(rotary.init_std == 0.021);
  CHECK(rotary.norm_epsilon == 1e-5);
  CHECK(rotary.head_size == 80);
}

// Catches: a key that to_json() forgets, digits lost in a real, a default applied twice, a word that is not read back.
TEST_CASE("a complete config survives being written and read") {
  for (const std::string& name : model_presets()) {
    const std::string text = to_json(with_preset(name));
    INFO(name);
    CHECK(to_json(parsed(text)) == text);
    CHECK(warnings_of(text).empty());
  }
  const std::string odd =
      small_with(R"({"seed": 18446744073709551615, "optimizer": {"learning_rate": 0.1234567890123456789,
      "betas": [0.1, 0.30000000000000004]}, "sampling": {"prompt": "a\n\"\u00e9\u0000"}, "precision": {"strategy": "mixed"}})");
  CHECK(to_json(parsed(to_json(parsed(odd)))) == to_json(parsed(odd)));
  CHECK(parsed(to_json(parsed(odd))).seed == 18446744073709551615u);
}

// Catches: values that a saved config holds and nobody gave, which contradict another strategy one by one; values that
// the user gave and that give way; a list that is lost by being saved again; a preset that is chosen and not used.
TEST_CASE("what nobody gave follows a saved config's later changes, and what was given stays") {
  for (const StrategyInfo& from : kStrategies) {
    const std::string written = small_with(R"({"precision": {"strategy": ")" + std::string(from.name) + R"("}})");
    for (const StrategyInfo& to : kStrategies) {
      const std::vector<std::string> change = {std::string("precision.strategy=") + to.name};
      const std::string saved = to_json(parsed(written));
      INFO(from.name << " to " << to.name);
      CHECK(to_json(parsed(saved, change)) == to_json(parsed(written, change)));
      nlohmann::json old = nlohmann::json::parse(saved);  // of a version that had no list
      old.erase("derived");
      const Config changed = parsed(old.dump(), change), wanted = parsed(written, change);
      CHECK(to_string_of_precision(changed) == to_string_of_precision(wanted));
    }
  }
  const auto again = [](const std::string& patch, const std::vector<std::string>& change) {
    return parsed(to_json(parsed(to_json(parsed(small_with(patch))))), change);
  };
  CHECK(again(R"({"precision": {"strategy": "mixed", "gradient": "fp32"}})", {"precision.strategy=bf16"})
            .precision.gradient == GradientStorage::fp32);
  CHECK(again("{}", {"parallel.reduction=bf16"}).parallel.wire == DType::bf16);
  CHECK(again("{}", {"batch.micro_batch_size=3"}).batch.tokens_per_step ==
        3 * parsed(small_with("{}")).model.sequence_length);
  CHECK(again("{}", {"model.preset=gpt2-124m"}).model.layers == 12);
  CHECK(again(R"({"model": {"layers": 3}})", {"model.preset=gpt2-124m"}).model.layers == 3);
  CHECK(contains(error_of(small_with(R"({"derived": ["seed"]})")), "derived"));
}

const char* const kFree = R"({"name": "t", "steps": 1, "data": {"train": "a"}, "model": {"layers": 2, "hidden": 96,
    "heads": 3, "ffn": 256, "vocabulary": 257, "sequence_length": 64}})";

TEST_CASE("free dimensions make a model, and each of them must be given") {
  const ModelConfig model = parsed(kFree).model;
  CHECK(model.architecture == Architecture::llama);
  CHECK(model.kv_heads == 3);
  CHECK(model.head_size == 32);
  for (const char* dimension : {"layers", "hidden", "heads", "ffn", "vocabulary", "sequence_length"}) {
    nlohmann::json config = nlohmann::json::parse(kFree);
    config["model"].erase(dimension);
    const std::string message = error_of(config.dump());
    CHECK_THAT(message, Catch::Matchers::StartsWith(std::string("t.json: model.") + dimension + " is missing, needs "));
    CHECK(contains(message, "model.preset"));
  }
}

TEST_CASE("the architecture sets a family's defaults, and single keys override them") {
  nlohmann::json config = nlohmann::json::parse(kFree);
  config["model"]["architecture"] = "gpt2";
  config["model"]["tied_embeddings"] = false;
  const ModelConfig model = parsed(config.dump()).model;
  CHECK(model.normalization == Normalization::layer_norm);
  CHECK(model.positions == Positions::learned);
  CHECK(model.activation == Activation::gelu);
  CHECK(model.linear_bias);
  CHECK_FALSE(model.tied_embeddings);
}

// Catches: a preset applied over the keys beside it, a head size or KV heads that do not follow changed dimensions.
TEST_CASE("keys override their preset, and what follows from them follows") {
  const ModelConfig wide = parsed(small_with(R"({"model": {"preset": "gpt2-124m", "hidden": 384}})")).model;
  CHECK(wide.hidden == 384);
  CHECK(wide.head_size == 32);
  CHECK(wide.layers == 12);
  const ModelConfig heads = parsed(small_with(R"({"model": {"preset": "gpt2-124m", "heads": 8}})")).model;
  CHECK(heads.kv_heads == 8);
  CHECK(heads.head_size == 96);
  CHECK(error_of(small_with(R"({"model": {"preset": "gpt2-124m", "architecture": "llama"}})")) ==
        "t.json: model.architecture is \"llama\", but model.preset \"gpt2-124m\" is \"gpt2\": leave one of them out");
}

}  // namespace
}  // namespace dither
