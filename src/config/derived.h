// Keys whose value follows from others where nobody gives it: by precision.strategy, by parallel.reduction, by the
// model's preset, family or dimensions.
//
// A saved config (to_json) has a value for every key. Its list `derived` names those that followed from others; such a
// value gives way where a later layer changes what it follows from. A config that was saved without the list by an
// earlier version is known by having all of these keys: what equals the strategy's default then counts as derived.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "src/config/config.h"
#include "src/config/given.h"

namespace dither {

constexpr const char* kDerivedKey = "derived";

struct Derivation {
  std::string key;
  std::vector<std::string> from;  // keys that its default follows from
};

/// All of them, in the order of the table of keys.
const std::vector<Derivation>& derivations();

/// Sets PrecisionConfig and ParallelConfig::wire to what strategy and reduction imply, but for the keys that `keep`
/// names true.
void derive_by_strategy(Config& config, const std::function<bool(const char* key)>& keep);

/// Marks the values of a document, which `given` has as `layer`, that were derived when it was saved.
void mark_derived(const nlohmann::json& document, int layer, Given& given);

/// `given` without the derived values whose sources a later layer has changed.
Given without_outdated(const Given& given);

/// The keys of derivations() that nobody gave.
std::vector<std::string> derived_keys(const Given& given);

}  // namespace dither
