// A name is a list of parts, label=value, with commas between; the strategy stands first and without a label.
//
// Letters, digits and ._,=+- only, so that no shell, no glob and no spreadsheet wants quotes; anything else becomes
// '-'. A name that is thereby ambiguous, or too long, ends in '~' and the hash of what its run computes.

#include "src/config/run_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "src/config/computation.h"  // computation_text(), hash_text()
#include "src/config/keys.h"         // the table

namespace dither {
namespace {

using Json = nlohmann::json;

constexpr const char* kStrategy = "precision.strategy";
constexpr size_t kLongest = 120;  // characters: fits a terminal's line, and leaves room for ~ and 16 digits below 200

/// One part of every run's name.
struct Part {
  std::string label;                // "lr="; "" for the strategy
  std::vector<std::string> values;  // one a run
};

/// Labels that people know; other keys go by the last part of their path.
std::string short_label(const std::string& path) {
  static const std::map<std::string, std::string> known = {{"optimizer.learning_rate", "lr"},
                                                           {"optimizer.weight_decay", "wd"},
                                                           {"optimizer.epsilon", "eps"},
                                                           {"optimizer.gradient_clip", "clip"},
                                                           {"optimizer.schedule.warmup_steps", "warmup"},
                                                           {"optimizer.schedule.kind", "schedule"},
                                                           {"batch.tokens_per_step", "tokens"},
                                                           {"precision.second_moment_rounding", "v"}};
  const auto found = known.find(path);
  return found != known.end() ? found->second : path.substr(path.rfind('.') + 1);
}

std::string text_of(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  return value.is_number_float() ? fmt::format("{}", value.get<double>()) : value.dump();
}

/// The parts that a key contributes: one, or for the two betas one each.
std::vector<Part> parts_of(const Key& key, const std::string& label, const std::vector<Config>& configs) {
  std::vector<Part> parts;
  if (key.type == KeyType::pair) {
    const std::string stem = key.path == "optimizer.betas" ? "b" : label;
    parts = {{stem + "1=", {}}, {stem + "2=", {}}};
  } else {
    parts = {{key.path == kStrategy ? "" : label + "=", {}}};
  }
  for (const Config& config : configs) {
    const Json value = key.load(config);
    for (size_t i = 0; i < parts.size(); ++i) {
      parts[i].values.push_back(text_of(key.type == KeyType::pair ? value[i] : value));
    }
  }
  return parts;
}

bool differs(const Part& part) {
  return std::any_of(part.values.begin(), part.values.end(),
                     [&part](const std::string& value) { return value != part.values.front(); });
}

std::string cleaned(std::string text) {
  for (char& c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("._,=+-").find(c) != std::string_view::npos;
    if (!plain) c = '-';
  }
  for (size_t dots = text.find(".."); dots != std::string::npos; dots = text.find("..")) text.replace(dots, 2, "--");
  if (!text.empty() && text[0] == '.') text[0] = '-';
  return text;
}

}  // namespace

std::vector<std::string> run_names(std::vector<const Key*> varied, const std::vector<Config>& configs) {
  std::stable_partition(varied.begin(), varied.end(), [](const Key* key) { return key->path == kStrategy; });
  std::map<std::string, int> uses;  // of each label
  for (const Key* key : varied) ++uses[short_label(key->path)];

  std::vector<std::string> names(configs.size());
  for (const Key* key : varied) {
    const std::string label = short_label(key->path);
    for (const Part& part : parts_of(*key, uses[label] == 1 ? label : key->path, configs)) {
      if (configs.size() > 1 && !differs(part)) continue;
      for (size_t i = 0; i < names.size(); ++i) names[i] += (names[i].empty() ? "" : ",") + part.label + part.values[i];
    }
  }

  std::map<std::string, int> same;
  for (std::string& name : names) ++same[name = cleaned(name)];
  for (size_t i = 0; i < names.size(); ++i) {
    if (same[names[i]] > 1 || names[i].size() > kLongest) {
      names[i] = names[i].substr(0, kLongest) + "~" + hash_text(computation_text(configs[i]));
    }
    DITHER_ASSERT(problem(*find_key("name"), names[i]).empty());
  }
  return names;
}

}  // namespace dither
