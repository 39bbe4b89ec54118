// Keys that earlier versions had. What a user writes is refused with the key that replaces them; in a config that the
// program itself has stored they are translated, so that old runs, weights and checkpoints can still be read.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "src/config/given.h"
#include "src/config/keys.h"

namespace dither {

struct RetiredKey {
  Key key;                  // path, type and range as they were; no store, no load
  std::string replacement;  // path of the key that replaces it
  /// The replacement's value that asks for as much, under a config that is complete but for this; and in words, how it
  /// comes to that.
  std::function<nlohmann::json(const nlohmann::json&, const Config&)> translate;
  std::function<std::string(const nlohmann::json&, const Config&)> reckoning;
};

/// The retired key of that path; nullptr if there is none.
const RetiredKey* find_retired_key(const std::string& path);

/// Translates the retired keys of a stored config into `config`, where no replacement was given. Throws Error for those
/// that a user wrote, with the replacement's value.
void apply_retired_keys(const Given& given, Config& config);

}  // namespace dither
