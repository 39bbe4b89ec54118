// When two configs compute the same. The keys are taken from the table, so that a new key counts until it is named
// here.

#include "src/config/computation.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/checksum.h"
#include "src/config/keys.h"   // the table
#include "src/config/study.h"  // config_hash(), differing_keys(), first_difference()

namespace dither {
namespace {

bool begins_with(const std::string& text, const char* start) { return text.rfind(start, 0) == 0; }

std::string lines_of(const Config& config, bool with_seed) {
  std::string text;
  for (const Key& key : key_table()) {
    if (!decides_computation(key) || (key.path == "seed" && !with_seed)) continue;
    text += key.path + "=" + key.load(config).dump() + "\n";
  }
  return text;
}

}  // namespace

bool decides_computation(const Key& key) {
  constexpr std::array kOthers = {"name",
                                  "device",
                                  "algorithms",
                                  "parallel.threads",
                                  "parallel.transport",
                                  "parallel.device_index",
                                  "parallel.share_device",
                                  "parallel.timeout_seconds"};
  return key.load && std::find(kOthers.begin(), kOthers.end(), key.path) == kOthers.end() &&
         !begins_with(key.path, "checkpoint.") && !begins_with(key.path, "logging.") &&
         !begins_with(key.path, "sampling.");
}

std::string computation_text(const Config& config) { return lines_of(config, true); }

std::string value_text(const Key& key, const Config& config) {
  const nlohmann::json value = key.load(config);
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string hash_text(const std::string& text) { return checksum_text(checksum_of(text.data(), text.size())); }

std::string config_hash(const Config& config) { return hash_text(lines_of(config, false)); }

std::vector<DifferingKey> differing_keys(const std::vector<Config>& configs) {
  std::vector<DifferingKey> differing;
  for (const Key& key : key_table()) {
    if (!decides_computation(key)) continue;
    DifferingKey row{key.path, {}};
    for (const Config& config : configs) row.values.push_back(value_text(key, config));
    const auto other = std::adjacent_find(row.values.begin(), row.values.end(), std::not_equal_to<>());
    if (other != row.values.end()) differing.push_back(std::move(row));
  }
  return differing;
}

std::string first_difference(const Config& a, const Config& b) {
  const std::vector<DifferingKey> differing = differing_keys({a, b});
  if (differing.empty()) return "";
  const DifferingKey& first = differing.front();
  return first.path + " " + first.values[0] + " here, " + first.values[1] + " there";
}

}  // namespace dither
