// Texts made from the table of keys: a config as JSON, the JSON Schema, the reference page.
//
// docs/config.schema.json and docs/configuration.md are these texts, committed; a test compares them.

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "src/config/computation.h"  // decides_computation()
#include "src/config/config.h"
#include "src/config/derived.h"   // kDerivedKey
#include "src/config/document.h"  // shown()
#include "src/config/keys.h"
#include "src/config/presets.h"

namespace dither {
namespace {

using Ordered = nlohmann::ordered_json;  // keeps the order of the table

/// Where a dotted path leads in nested objects; `step` goes from an object to its member of that name.
Ordered& at_path(Ordered& root, const std::string& path,
                 const std::function<Ordered&(Ordered&, const std::string&)>& step) {
  Ordered* place = &root;
  for (size_t start = 0; start <= path.size();) {
    const size_t dot = std::min(path.find('.', start), path.size());
    place = &step(*place, path.substr(start, dot - start));
    start = dot + 1;
  }
  return *place;
}

Ordered schema_of_reals(const RealRange& range) {
  return {{"type", "number"},
          {range.low_open ? "exclusiveMinimum" : "minimum", range.low},
          {range.high_open ? "exclusiveMaximum" : "maximum", range.high}};
}

Ordered schema_of(const Key& key) {
  Ordered schema;
  switch (key.type) {
    case KeyType::boolean:
      schema["type"] = "boolean";
      break;
    case KeyType::real:
      schema = schema_of_reals(key.reals);
      break;
    case KeyType::integer:
      schema = {{"type", "integer"}, {"minimum", key.integers.least}, {"maximum", key.integers.most}};
      if (key.integers.step != 1) schema["multipleOf"] = key.integers.step;
      break;
    case KeyType::pair:
      schema = {{"type", "array"}, {"items", schema_of_reals(key.reals)}, {"minItems", 2}, {"maxItems", 2}};
      break;
    case KeyType::word:
      schema["type"] = "string";
      for (const Word& word : key.words) schema["enum"].push_back(word.name);
      break;
    case KeyType::words:
      schema = {{"type", "array"}, {"items", {{"type", "string"}, {"enum", Ordered::array()}}}, {"uniqueItems", true}};
      for (const Word& word : key.words) schema["items"]["enum"].push_back(word.name);
      break;
    case KeyType::text:
      schema["type"] = "string";
      if (key.rule == TextRule::path || key.rule == TextRule::folder_name) schema["minLength"] = 1;
      break;
    case KeyType::variation: {
      const Ordered product = {{"$ref", "#/definitions/product"}};
      schema["oneOf"] = Ordered::array({product, {{"type", "array"}, {"minItems", 1}, {"items", product}}});
      break;
    }
  }
  schema["description"] = key.meaning + (key.required ? " (required)" : " (default: " + default_text(key) + ")");
  return schema;
}

/// One object of `vary`: lists of values under the paths of the keys that may vary, each value as its key wants it.
Ordered schema_of_product() {
  Ordered product = {{"type", "object"}, {"minProperties", 1}, {"additionalProperties", false}};
  for (const Key& key : key_table()) {
    if (!decides_computation(key)) continue;
    std::string place = "#/properties/" + key.path;
    for (size_t dot = place.find('.'); dot != std::string::npos; dot = place.find('.')) {
      place.replace(dot, 1, "/properties/");
    }
    product["properties"][key.path] = {
        {"type", "array"}, {"minItems", 1}, {"uniqueItems", true}, {"items", {{"$ref", place}}}};
  }
  return product;
}

std::string range_in_table(const Key& key) {
  if (key.path == kDerivedKey) return "a list of keys";
  if (key.type != KeyType::word) return allowed(key);
  std::string list;
  if (key.path == "model.preset") return "a name of the table below, or `\"\"`";
  for (const Word& word : key.words) list += (list.empty() ? "`" : ", `") + word.name + "`";
  return list;
}

std::string key_rows() {
  std::string page;
  std::string section = "none";
  for (const Key& key : key_table()) {
    const size_t dot = key.path.rfind('.');
    const std::string its_section = dot == std::string::npos ? "" : key.path.substr(0, dot);
    if (its_section != section) {
      section = its_section;
      page += "\n## " + (section.empty() ? "The file and the run" : "`" + section + "`") +
              "\n| key | allowed | default | meaning |\n|---|---|---|---|\n";
    }
    page += fmt::format("| `{}` | {} | {} | {} |\n", key.path, range_in_table(key), default_text(key), key.meaning);
  }
  return page;
}

std::string word_lists() {
  std::string page = "\n## What the words mean\n";
  for (const Key& key : key_table()) {
    if (key.words.empty() || key.path == "model.preset" || key.path == "precision.strategy" || !key.load) continue;
    page += "- `" + key.path + "`: ";
    for (const Word& word : key.words) {
      page += (&word == key.words.data() ? "`" : "; `") + word.name + "` " + word.meaning;
    }
    page += "\n";
  }
  return page;
}

std::string strategy_rows() {
  std::string page =
      "\n## Precision strategies\nWhat each one stores and how it writes the weight: strategies.md.\n\n"
      "| `precision.strategy` | bytes a parameter | meaning |\n|---|---|---|\n";
  for (const StrategyInfo& info : kStrategies) {
    page += fmt::format("| `{}` | {} | {} |\n", info.name, bytes_per_parameter(info), info.meaning);
  }
  return page;
}

std::string preset_rows() {
  std::string page =
      "\n## Model presets\n| `model.preset` | layers | hidden | heads | kv_heads | ffn | vocabulary | sequence_length "
      "| "
      "meaning |\n|---|---|---|---|---|---|---|---|---|\n";
  for (const ModelPreset& preset : preset_table()) {
    const ModelConfig& m = preset.model;
    page += fmt::format("| `{}` | {} | {} | {} | {} | {} | {} | {} | {} |\n", preset.name, m.layers, m.hidden, m.heads,
                        m.kv_heads == 0 ? m.heads : m.kv_heads, m.ffn, m.vocabulary, m.sequence_length, preset.meaning);
  }
  return page;
}

constexpr const char* kIntroduction = R"(# Configuration
Made from the table of keys in `src/config/keys.cpp`; a test compares this page with it.

A config is one JSON object; sections are nested objects, and dots in the names below stand for nesting. A file may
extend another one and say only what differs:

```json
{ "extends": "gpt2-124m.json", "precision": { "strategy": "bf16_sr" }, "optimizer": { "learning_rate": 1.2e-3 } }
```

- **Order.** The extended file comes first, then the file itself, then `--set key=value` (the value is JSON, or a text
  where it is not JSON; a key that is a text takes it as it is: `--set name=4711`). Later values override earlier ones
  key by key; `name` alone is not inherited.
- **Models.** `model.preset` gives every dimension; keys beside it, also those of an extended file, override single ones.
  Without a preset `layers`, `hidden`, `heads`, `ffn`, `vocabulary` and `sequence_length` must be given, and
  `model.architecture` chooses the defaults of the rest.
- **Saved configs** (`runs/a/config.json`, and those inside weights and checkpoints) hold every key. `derived` lists those
  that nobody gave: they give way where a later value changes what they follow from, so that
  `dither train runs/a/config.json --set name=b --set precision.strategy=mixed` is the run with that strategy.
- **Errors.** Unknown and repeated keys, null, a wrong type, a value out of range and keys that contradict each other are
  errors; nothing is ignored in silence. An integer may be written as `1e4`; a number that would be rounded to another
  integer is an error. At most 64 files extend each other.
- **Comments.** Files are JSON with comments (JSONC): `// ...` to the end of the line, `/* ... */`, and a comma before a
  closing bracket. A run's own `config.json` is plain JSON.
- **Studies.** A file with `vary` stands for several runs, the product of its lists, for `dither compare`:
  `{ "extends": "a.json", "vary": { "precision.strategy": ["bf16", "mixed"], "seed": [1, 2] } }` makes four. A list of such
  objects makes the runs of all of them, each computation once. Every value is checked as if it stood at its key, and every
  run as a config of its own. `vary` overrides the files; `--set` holds for all runs and must leave varied keys alone.
  Keys that do not change what is computed (`name`, `device`, `algorithms`, `checkpoint`, `logging`, `sampling`, and of
  `parallel` all but `zero_stage`, `shard_group_size`, `reduction` and `wire`) cannot vary.
- **Paths** of data, of the run folder and of `checkpoint.resume` start at the working directory; `extends` starts at the
  file that says it.
)";

}  // namespace

std::string to_json(const Config& config) {
  Ordered root = Ordered::object();
  const auto member = [](Ordered& object, const std::string& name) -> Ordered& { return object[name]; };
  for (const Key& key : key_table()) {
    if (key.load) at_path(root, key.path, member) = key.load(config);
    if (key.path == kDerivedKey && !config.derived.empty()) root[kDerivedKey] = config.derived;
  }
  return root.dump(2) + "\n";
}

std::string config_schema() {
  Ordered root = {{"$schema", "http://json-schema.org/draft-07/schema#"}, {"title", "Dither: configuration"}};
  const auto property = [](Ordered& object, const std::string& name) -> Ordered& {
    object["type"] = "object";
    object["additionalProperties"] = false;
    return object["properties"][name];
  };
  for (const Key& key : key_table()) at_path(root, key.path, property) = schema_of(key);
  root["definitions"]["product"] = schema_of_product();
  return root.dump(2) + "\n";
}

std::string config_reference() { return kIntroduction + key_rows() + word_lists() + strategy_rows() + preset_rows(); }

}  // namespace dither
