// From what the user gave to a complete Config: model preset or family, then the given keys, then what follows from
// them, then the checks.

#include "base/error.h"
#include "src/config/checks.h"  // check_contradictions(), collect_warnings()
#include "src/config/config.h"
#include "src/config/derived.h"   // derived_keys(), without_outdated()
#include "src/config/document.h"  // shown()
#include "src/config/given.h"     // files, extends, --set
#include "src/config/inference.h"
#include "src/config/keys.h"     // the table
#include "src/config/presets.h"  // find_preset(), family_defaults()
#include "src/config/resolve.h"
#include "src/config/retired_keys.h"

#include <filesystem>
#include <nlohmann/json.hpp>

namespace dither {
namespace {

/// The model before its single keys: the preset's, else what its family takes for granted.
ModelConfig starting_model(const Given& given) {
  Config named;  // receives the two keys alone
  for (const char* path : {"model.preset", "model.architecture"}) {
    if (const GivenValue* value = given.find(path)) find_key(path)->store(named, *value->value);
  }
  const ModelPreset* preset = find_preset(named.model.preset);
  if (preset == nullptr) return family_defaults(named.model.architecture);
  if (given.find("model.architecture") != nullptr && named.model.architecture != preset->model.architecture) {
    Config published;
    published.model = preset->model;
    const Key& key = *find_key("model.architecture");
    throw Error(given.origin_of(key.path) + ": " + key.path + " is " + shown(key.load(named)) +
                ", but model.preset \"" + preset->name + "\" is " + shown(key.load(published)) +
                ": leave one of them out");
  }
  return preset->model;
}

/// Keys without any default, and dimensions that no preset gave.
void demand_required(const Config& config, const Given& given) {
  const auto demand = [&given](const char* path, const char* cure) {
    const Key& key = *find_key(path);
    throw Error(given.origin + ": " + path + " is missing, needs " + allowed(key) + cure +
                "\n       meaning: " + key.meaning);
  };
  for (const Key& key : key_table()) {
    if (key.required && given.find(key.path) == nullptr) demand(key.path.c_str(), "");
  }
  const ModelConfig& m = config.model;
  const char* cure = " (or choose a model.preset)";
  if (m.layers == 0) demand("model.layers", cure);
  if (m.hidden == 0) demand("model.hidden", cure);
  if (m.heads == 0) demand("model.heads", cure);
  if (m.ffn == 0) demand("model.ffn", cure);
  if (m.vocabulary == 0) demand("model.vocabulary", cure);
  if (m.sequence_length == 0) demand("model.sequence_length", cure);
}

/// Defaults that follow from other keys.
void derive(Config& config, const Given& given) {
  const auto absent = [&given](const char* path) { return given.find(path) == nullptr; };
  ModelConfig& m = config.model;
  if (m.kv_heads == 0) m.kv_heads = m.heads;
  if (m.head_size == 0) m.head_size = m.hidden / m.heads;
  if (absent("batch.tokens_per_step")) {
    config.batch.tokens_per_step = int64_t{config.batch.micro_batch_size} * m.sequence_length;
  }
  derive_by_strategy(config, [&absent](const char* key) { return !absent(key); });
}

/// The name of a run whose config gives none: the file's, without folder and ending.
std::string name_from(const std::string& origin) {
  std::string stem = std::filesystem::path(origin).stem().string();
  const Key& key = *find_key("name");
  if (!problem(key, stem).empty()) {
    throw Error(origin + ": name is missing, and the file's own name will not do: " + shown(stem) + ", " +
                problem(key, stem));
  }
  return stem;
}

/// One run's config; a study's file is for load_study().
Config resolve_single(const Given& given, std::vector<std::string>& warnings) {
  if (!given.products.empty()) {
    throw Error(given.origin + ": vary" + (given.vary_origin == given.origin ? "" : " of " + given.vary_origin) +
                " makes it a study of several runs: use dither compare");
  }
  return resolve(given, warnings);
}

}  // namespace

Config resolve(const Given& all, std::vector<std::string>& warnings) {
  const Given given = without_outdated(all);
  Config config;
  config.derived = derived_keys(given);
  config.model = starting_model(given);
  for (const auto& [path, given_value] : given.values) find_key(path)->store(config, *given_value.value);
  if (given.find("name") == nullptr) config.name = name_from(given.origin);
  demand_required(config, given);
  apply_retired_keys(given, config);
  derive(config, given);
  check_contradictions(config, given);
  collect_warnings(config, given, warnings);
  return config;
}

Config load_config(const std::string& path, const std::vector<std::string>& assignments,
                   std::vector<std::string>& warnings) {
  return resolve_single(gather_file(path, assignments), warnings);
}

Config parse_config(const std::string& json_text, const std::string& origin,
                    const std::vector<std::string>& assignments, std::vector<std::string>& warnings) {
  return resolve_single(gather_text(json_text, origin, assignments), warnings);
}

Config parse_inference_config(const std::string& json_text, const std::string& origin,
                              const std::vector<std::string>& assignments, int sequences) {
  Given given = gather_text(json_text, origin, assignments);
  const GivenValue* step = given.find("batch.tokens_per_step");
  if (step != nullptr && step->layer < given.assigned_layer) given.values.erase("batch.tokens_per_step");
  std::vector<std::string> heard;
  Config config = resolve_single(given, heard);
  if (sequences > 0) config.batch.micro_batch_size = sequences;
  config.batch.tokens_per_step = int64_t{config.batch.micro_batch_size} * config.model.sequence_length;
  return config;
}

}  // namespace dither
