// What the user gave: the values of a config file, of the files it extends and of --set, each with where it was said.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "src/config/variations.h"  // Product

namespace dither {

/// One value, checked against its key's type and range.
struct GivenValue {
  std::shared_ptr<const nlohmann::json> value;  // never null
  std::string origin;                           // file, or "--set"
  int layer;                                    // higher overrides lower: the last extended file is 0, --set comes last
  bool derived = false;  // the file is a saved config, in which this value followed from others (derived.h)
};

struct Given {
  std::string origin;  // the file (or text) that was asked for: what errors about no single key name
  std::map<std::string, GivenValue> values;   // by dotted path; directives (extends, vary, $schema) are not among them
  std::map<std::string, GivenValue> retired;  // the same of keys that are no more (retired_keys.h)
  bool stored = false;                        // written by this program, perhaps by an earlier version of it
  int assigned_layer = 0;                     // of --set
  std::vector<Product> products;              // `vary` of the nearest file that has it; empty: no file has
  std::string vary_origin;                    // that file

  const GivenValue* find(const std::string& path) const;
  /// Where `path` was said; the config as a whole if nowhere.
  const std::string& origin_of(const std::string& path) const;
};

/// Reads `path` and what it extends, then the assignments ("a.b=value").
Given gather_file(const std::string& path, const std::vector<std::string>& assignments);

/// The same from JSON text that this program has stored.
Given gather_text(const std::string& text, const std::string& origin, const std::vector<std::string>& assignments);

}  // namespace dither
