#include "src/config/derived.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "src/config/keys.h"

namespace dither {

namespace {

constexpr const char* kByStrategy[] = {"precision.first_moment", "precision.second_moment", "precision.gradient",
                                       "precision.residual", "precision.compute"};

/// Everything that a preset gives, in the order of config.h.
constexpr const char* kByModel[] = {"architecture",
                                    "layers",
                                    "hidden",
                                    "heads",
                                    "kv_heads",
                                    "head_size",
                                    "ffn",
                                    "vocabulary",
                                    "sequence_length",
                                    "normalization",
                                    "norm_epsilon",
                                    "positions",
                                    "rotary_base",
                                    "rotary_scaling",
                                    "rotary_factor",
                                    "rotary_low_frequency",
                                    "rotary_high_frequency",
                                    "rotary_original_length",
                                    "activation",
                                    "linear_bias",
                                    "qkv_bias",
                                    "qk_norm",
                                    "tied_embeddings",
                                    "init_std"};

/// Whether a value of a saved config without the list is what the strategy or reduction beside it implies.
void mark_by_value(int layer, Given& given) {
  Config implied;
  for (const char* source : {"precision.strategy", "parallel.reduction"}) {
    find_key(source)->store(implied, *given.find(source)->value);
  }
  derive_by_strategy(implied, [](const char*) { return false; });
  const auto mark = [&](const char* path) {
    GivenValue& value = given.values.at(path);
    value.derived = value.layer == layer && *value.value == find_key(path)->load(implied);
  };
  for (const char* path : kByStrategy) mark(path);
  mark("parallel.wire");
}

}  // namespace

const std::vector<Derivation>& derivations() {
  static const std::vector<Derivation> list = [] {
    std::vector<Derivation> all;
    for (const char* name : kByModel) {
      const std::string key = std::string("model.") + name;
      std::vector<std::string> from = {"model.preset"};
      if (key != "model.architecture") from.emplace_back("model.architecture");
      if (key == "model.kv_heads" || key == "model.head_size") from.emplace_back("model.heads");
      if (key == "model.head_size") from.emplace_back("model.hidden");
      all.push_back({key, from});
    }
    all.push_back({"batch.tokens_per_step", {"batch.micro_batch_size", "model.sequence_length", "model.preset"}});
    for (const char* key : kByStrategy) all.push_back({key, {"precision.strategy"}});
    all.push_back({"parallel.wire", {"parallel.reduction"}});
    return all;
  }();
  return list;
}

void derive_by_strategy(Config& config, const std::function<bool(const char* key)>& keep) {
  PrecisionConfig& p = config.precision;
  const StrategyInfo& strategy = strategy_info(p.strategy);
  if (!keep("precision.gradient")) {
    p.gradient = strategy.gradient == DType::fp32 ? GradientStorage::fp32 : GradientStorage::bf16_sr;
  }
  if (!keep("precision.first_moment")) p.first_moment = strategy.first_moment;
  if (!keep("precision.second_moment")) p.second_moment = strategy.second_moment;
  if (!keep("precision.residual")) p.residual = strategy.weight;
  if (!keep("precision.compute")) p.compute = strategy.compute;
  ParallelConfig& parallel = config.parallel;
  if (!keep("parallel.wire")) parallel.wire = parallel.reduction == Reduction::bf16 ? DType::bf16 : DType::fp32;
}

void mark_derived(const nlohmann::json& document, int layer, Given& given) {
  const auto here = [&](const std::string& path) {
    const GivenValue* value = given.find(path);
    return value != nullptr && value->layer == layer;
  };
  const auto list = document.find(kDerivedKey);
  if (list != document.end()) {
    for (const nlohmann::json& key : *list) {
      const auto path = key.get<std::string>();
      if (here(path)) given.values.at(path).derived = true;
    }
    return;
  }
  const bool saved =
      here("precision.strategy") && here("parallel.reduction") &&
      std::all_of(derivations().begin(), derivations().end(), [&here](const Derivation& d) { return here(d.key); });
  if (saved) mark_by_value(layer, given);
}

Given without_outdated(const Given& given) {
  Given kept = given;
  for (const Derivation& d : derivations()) {
    const GivenValue* value = given.find(d.key);
    if (value == nullptr || !value->derived) continue;
    const bool outdated = std::any_of(d.from.begin(), d.from.end(), [&](const std::string& source) {
      const GivenValue* later = given.find(source);
      return later != nullptr && later->layer > value->layer;
    });
    if (outdated) kept.values.erase(d.key);
  }
  return kept;
}

std::vector<std::string> derived_keys(const Given& given) {
  std::vector<std::string> keys;
  for (const Derivation& d : derivations()) {
    const GivenValue* value = given.find(d.key);
    if (value == nullptr || value->derived) keys.push_back(d.key);
  }
  return keys;
}

}  // namespace dither
