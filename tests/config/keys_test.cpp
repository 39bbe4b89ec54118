// The table of keys as a whole: every key refuses what it must, keeps what it is given, and stands in the documents.

#include <fstream>
#include <limits>
#include <sstream>

#include "src/config/keys.h"
#include "src/config/presets.h"
#include "tests/config/helpers.h"

namespace dither {
namespace {

using Json = nlohmann::json;

/// kSmall with one key, as nested objects.
std::string small_with_key(const std::string& path, Json value) {
  Json config = Json::parse(kSmall);
  Json::json_pointer pointer;
  std::istringstream parts(path);
  for (std::string part; std::getline(parts, part, '.');) pointer /= part;
  config[pointer] = std::move(value);
  return config.dump();
}

/// Values of a wrong type, for every type of key.
std::vector<Json> wrong_types(const Key& key) {
  std::vector<Json> wrong = {Json::object(), Json::array({Json::array()}), Json::array({1, "a"})};
  if (key.type != KeyType::words) wrong.push_back(Json::array());
  if (key.type != KeyType::boolean) wrong.emplace_back(true);
  if (key.type != KeyType::text && key.type != KeyType::word) wrong.emplace_back("1");
  if (key.type != KeyType::integer && key.type != KeyType::real) wrong.emplace_back(1);
  if (key.type == KeyType::integer) wrong.emplace_back(12.5);
  if (key.type != KeyType::pair) wrong.push_back(Json::array({0.5, 0.5}));
  if (key.type == KeyType::pair) wrong.push_back(Json::array({0.5, 0.5, 0.5}));
  return wrong;
}

/// Values of the right type that the key's range excludes; empty for booleans and free texts.
std::vector<Json> out_of_range(const Key& key) {
  std::vector<Json> wrong;
  switch (key.type) {
    case KeyType::boolean:
      break;
    case KeyType::integer:
      wrong = {key.integers.least - 1, std::numeric_limits<int64_t>::min(), -1e300, 1e300, 18446744073709551616.0};
      if (key.integers.most < std::numeric_limits<uint64_t>::max()) {
        wrong.emplace_back(key.integers.most + 1);
        wrong.emplace_back(std::numeric_limits<uint64_t>::max());
      }
      if (key.integers.step > 1) wrong.emplace_back(key.integers.least + 1);
      break;
    case KeyType::real:
      wrong = {key.reals.low - 1, key.reals.high * 2, -1e300, 1e300};
      break;
    case KeyType::pair:
      wrong = {Json::array({0.5, 1.0}), Json::array({-0.5, 0.5}), Json::array({0, 0.5})};
      break;
    case KeyType::word:
      wrong = {"no such word", "FP32", " fp32"};
      break;
    case KeyType::words:
      wrong = {Json::array({"no such word"}), Json::array({key.words[0].name, key.words[0].name})};
      break;
    case KeyType::text:
      if (key.rule == TextRule::path || key.rule == TextRule::folder_name) wrong.emplace_back("");
      if (key.rule != TextRule::any) wrong.push_back(std::string("a\0b", 3));
      break;
    case KeyType::variation:  // its inside: study_test.cpp
      break;
  }
  if (key.type == KeyType::real && key.reals.low_open) wrong.emplace_back(key.reals.low);
  if (key.path == "extends") wrong.emplace_back("no/such/file.json");
  return wrong;
}

// Catches: a key whose range or type is not looked at, a message without the key's name, an exception of the JSON
// library.
TEST_CASE("every key refuses wrong types and values out of range, and says its name") {
  for (const Key& key : key_table()) {
    for (const Json& value : wrong_types(key)) {
      CHECK_THAT(error_of(small_with_key(key.path, value)), Catch::Matchers::StartsWith("t.json: " + key.path + " "));
      CHECK(contains(error_of(small_with_key(key.path, value)), "needs " + allowed(key)));
    }
    for (const Json& value : out_of_range(key)) {
      CHECK(contains(error_of(small_with_key(key.path, value)), "t.json: " + key.path + " "));
      if (!key.load) continue;
      INFO(value.dump());
      const std::string message = error_of(kSmall, {key.path + "=" + value.dump()});
      CHECK_THAT(message, Catch::Matchers::StartsWith("--set: " + key.path + " is "));
      CHECK(contains(message, "needs " + allowed(key)));
    }
    CHECK(error_of(small_with_key(key.path, nullptr)) ==
          "t.json: " + key.path + " is null: give a value, or leave the key out for its default");
  }
}

// Catches: a line of the table that writes another field too, a bound that is one off, a default outside its own range.
TEST_CASE("every key keeps its bounds and its words, alone") {
  for (const Key& key : key_table()) {
    if (!key.load) continue;
    std::vector<Json> values;
    if (key.type == KeyType::boolean) values = {true, false};
    if (key.type == KeyType::integer) values = {key.integers.least, key.integers.most};
    if (key.type == KeyType::real && !key.reals.low_open) values = {key.reals.low, key.reals.high};
    if (key.type == KeyType::pair) values = {Json::array({0.25, 0.75})};
    if (key.type == KeyType::text) values = {"a", "b"};
    for (const Word& word : key.words) {
      values.push_back(key.type == KeyType::words ? Json::array({word.name}) : Json(word.name));
    }
    for (const Json& value : values) {
      INFO(key.path << " = " << value.dump());
      REQUIRE(problem(key, value).empty());
      Config config;
      key.store(config, value);
      CHECK(key.load(config) == value);
      key.store(config, key.load(Config{}));
      CHECK(to_json(config) == to_json(Config{}));  // no other field was touched
    }
    if (key.default_note.empty() && !key.required && key.path.rfind("model.", 0) != 0) {
      CHECK(problem(key, key.load(Config{})).empty());
    }
  }
}

// Catches: words in another order than their enumerators, which writing and reading back would hide.
TEST_CASE("each word stands for its own enumerator") {
  const auto with = [](const char* path, const char* word) {
    Config config;
    find_key(path)->store(config, word);
    return config;
  };
  CHECK(with("model.architecture", "gpt2").model.architecture == Architecture::gpt2);
  CHECK(with("model.architecture", "llama").model.architecture == Architecture::llama);
  CHECK(with("model.normalization", "layer_norm").model.normalization == Normalization::layer_norm);
  CHECK(with("model.normalization", "rms_norm").model.normalization == Normalization::rms_norm);
  CHECK(with("model.positions", "learned").model.positions == Positions::learned);
  CHECK(with("model.positions", "rotary").model.positions == Positions::rotary);
  CHECK(with("model.rotary_scaling", "none").model.rotary_scaling == RotaryScaling::none);
  CHECK(with("model.rotary_scaling", "llama3").model.rotary_scaling == RotaryScaling::llama3);
  CHECK(with("model.activation", "gelu").model.activation == Activation::gelu);
  CHECK(with("model.activation", "swiglu").model.activation == Activation::swiglu);
  CHECK(with("precision.second_moment_rounding", "nearest").precision.second_moment_rounding == Rounding::nearest);
  CHECK(with("precision.second_moment_rounding", "stochastic").precision.second_moment_rounding ==
        Rounding::stochastic);
  CHECK(with("precision.math", "fp32").precision.math == Math::fp32);
  CHECK(with("precision.math", "bf16").precision.math == Math::bf16);
  CHECK(with("precision.gradient", "bf16_sr").precision.gradient == GradientStorage::bf16_sr);
  CHECK(with("precision.gradient", "fp32").precision.gradient == GradientStorage::fp32);
  CHECK(with("precision.gradient", "bf16").precision.gradient == GradientStorage::bf16);
  CHECK(with("precision.residual", "bf16").precision.residual == DType::bf16);
  CHECK(with("precision.compute", "fp32").precision.compute == DType::fp32);
  CHECK(with("optimizer.schedule.kind", "constant").optimizer.schedule.kind == ScheduleKind::constant);
  CHECK(with("optimizer.schedule.kind", "linear").optimizer.schedule.kind == ScheduleKind::linear);
  CHECK(with("optimizer.schedule.kind", "cosine").optimizer.schedule.kind == ScheduleKind::cosine);
  CHECK(with("optimizer.schedule.kind", "wsd").optimizer.schedule.kind == ScheduleKind::wsd);
  CHECK(with("optimizer.schedule.decay_shape", "linear").optimizer.schedule.decay_shape == DecayShape::linear);
  CHECK(with("optimizer.schedule.decay_shape", "1-sqrt").optimizer.schedule.decay_shape == DecayShape::one_minus_sqrt);
  CHECK(with("checkpoint.on_signal", "exit").checkpoint.on_signal == OnSignal::exit);
  CHECK(with("checkpoint.on_signal", "continue").checkpoint.on_signal == OnSignal::go_on);
  CHECK(with("precision.first_moment_rounding", "stochastic").precision.first_moment_rounding == Rounding::stochastic);
}

TEST_CASE("the words of precision.strategy are those of the table of strategies") {
  const Key* key = find_key("precision.strategy");
  REQUIRE(key->words.size() == kStrategies.size());
  for (const StrategyInfo& info : kStrategies) {
    const Config config = parsed(small_with(std::string(R"({"precision": {"strategy": ")") + info.name + "\"}}"));
    CHECK(config.precision.strategy == info.id);
    CHECK(contains(config_reference(), info.meaning));
  }
}

// Catches: a strategy, a component or a formula that the page leaves out.
TEST_CASE("the page of strategies shows each one with its bytes, its rule and what EDQ is taken of") {
  const std::string page = strategies_page();
  for (const StrategyInfo& info : kStrategies) {
    INFO(info.name);
    const size_t begin = page.find("## `" + std::string(info.name) + "`");
    REQUIRE(begin != std::string::npos);
    const std::string section = page.substr(begin, page.find("\n## ", begin) - begin);
    CHECK(contains(section, info.meaning));
    with_weight_rule(info.write, [&](auto rule) {
      CHECK(contains(section, rule.formula));
      CHECK(contains(section, std::string("`edq_full` of ") + rule.whole + "."));
    });
    CHECK(contains(page, "\n| `" + std::string(info.name) + "` | "));
  }
  CHECK(
      contains(page, "| `split32` | BF16 | lo int16 | BF16 | FP32 or BF16 | FP32 or BF16 | BF16 | BF16 | 10 to 14 |"));
  CHECK(contains(page, "| `collage_plus` | BF16 | dw BF16 | BF16 | BF16 | BF16 + dv BF16 | BF16 | BF16 | 12 |"));
  CHECK(contains(page, "| `mixed_autocast` | FP32 | - | FP32 | FP32 | FP32 | FP32 | BF16 | 16 |"));
}

// Catches: a key that the schema or the page forgets, a schema of the wrong nesting, a section that accepts anything.
TEST_CASE("schema and reference page hold every key, and nothing else") {
  const Json schema = Json::parse(config_schema());
  const std::string page = config_reference();
  size_t leaves = 0;
  const std::function<void(const Json&)> count = [&](const Json& object) {
    CHECK(object.at("additionalProperties") == false);
    for (const auto& [name, property] : object.at("properties").items()) {
      if (property.contains("properties")) {
        count(property);
      } else {
        ++leaves;
      }
    }
  };
  count(schema);
  CHECK(leaves == key_table().size());
  for (const Key& key : key_table()) {
    INFO(key.path);
    const Json* place = &schema;
    std::istringstream parts(key.path);
    for (std::string part; std::getline(parts, part, '.');) place = &place->at("properties").at(part);
    CHECK(contains(place->at("description"), key.meaning));
    if (key.type == KeyType::word) CHECK(place->at("enum").size() == key.words.size());
    if (key.type == KeyType::integer) CHECK(place->at("maximum") == key.integers.most);
    CHECK(contains(page, "| `" + key.path + "` |"));
  }
}

std::string file_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// After a change of the table this test fails once, and leaves the new text in the build folder, ready to be copied.
TEST_CASE("the committed schema and reference pages are the generated ones") {
  const auto compare = [](const std::string& name, const std::string& generated) {
    const std::string fresh = std::string(DITHER_BINARY_DIR) + "/" + name;
    const bool same = file_text(std::string(DITHER_SOURCE_DIR) + "/docs/" + name) == generated;
    if (!same) std::ofstream(fresh, std::ios::binary) << generated;
    INFO("docs/" << name << " is out of date: copy " << fresh << " over it");
    CHECK(same);
  };
  compare("config.schema.json", config_schema());
  compare("configuration.md", config_reference());
  compare("strategies.md", strategies_page());
}

TEST_CASE("every file in configs/ loads without a warning") {
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(DITHER_SOURCE_DIR) + "/configs")) {
    if (entry.path().extension() != ".json") continue;
    INFO(entry.path().string());
    std::vector<std::string> warnings;
    const Config config = load_config(entry.path().string(), {}, warnings);
    CHECK(warnings.empty());
    CHECK(config.name == entry.path().stem().string());
    if (find_preset(config.name) != nullptr) CHECK(config.model.preset == config.name);  // named for its model
    ++files;
  }
  CHECK(files >= model_presets().size());
}

// The rotary GPTs as published: sequences a step, learning rate; 20,000 steps, warm-up 200, cosine to a tenth.
TEST_CASE("the configs of the Collage experiments have the published settings") {
  struct Published {
    const char* name;
    int64_t sequences;
    double learning_rate;
  };
  const auto& [name, sequences, learning_rate] =
      GENERATE(Published{"gpt-rotary-125m", 1024, 6e-4}, Published{"gpt-rotary-1.3b", 1024, 2e-4},
               Published{"gpt-rotary-2.7b", 512, 1.6e-4}, Published{"gpt-rotary-6.7b", 256, 1.2e-4});
  std::vector<std::string> warnings;
  const Config c = load_config(std::string(DITHER_SOURCE_DIR) + "/configs/" + name + ".json", {}, warnings);
  CHECK(c.batch.tokens_per_step == sequences * 2048);
  CHECK(c.model.sequence_length == 2048);
  CHECK(c.optimizer.learning_rate == learning_rate);
  CHECK(c.optimizer.betas == std::array<double, 2>{0.9, 0.95});
  CHECK(c.optimizer.weight_decay == 0.1);
  CHECK(c.steps == 20000);
  CHECK(c.optimizer.schedule.warmup_steps == 200);
  CHECK(c.optimizer.schedule.kind == ScheduleKind::cosine);
  CHECK(c.optimizer.schedule.final_fraction == 0.1);
}

}  // namespace
}  // namespace dither
