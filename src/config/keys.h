// What is known about each key of the config; keys.cpp is THE table. Parsing, --set, the schema, the reference page and
// to_json() walk over it and know no key by name.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "src/config/config.h"  // Config

namespace dither {

enum class KeyType { boolean, integer, real, pair, word, words, text, variation };
// words: a list of them, each at most once; variation: lists of values for other keys (variations.h)

/// One allowed word and the enumerator it stands for.
struct Word {
  std::string name;
  int value;  // of the field's enum; unused where the field is a string
  std::string meaning;
};

/// Integers least, least + step, ... up to most. `least` is at most 0 or a multiple of `step`.
struct IntegerRange {
  int64_t least = 0;
  uint64_t most = 0;
  uint64_t step = 1;
};

/// Reals between two bounds; an open bound is not allowed itself.
struct RealRange {
  double low = 0;
  double high = 0;
  bool low_open = false;
  bool high_open = false;
};

enum class TextRule { any, path, optional_path, folder_name };  // what a text must look like

struct Key {
  std::string path;  // dotted: "optimizer.schedule.kind"
  KeyType type = KeyType::text;
  std::string meaning;
  IntegerRange integers;    // integer
  RealRange reals;          // real, pair: both of them
  std::vector<Word> words;  // word, words
  TextRule rule = TextRule::any;
  std::string default_note;  // a default that follows from other keys, in words
  bool required = false;     // no default at all

  /// Writes a value that problem() found nothing wrong with; reads it back. Both empty for the keys that only say how
  /// to read the file (extends, vary, $schema).
  std::function<void(Config&, const nlohmann::json&)> store;
  std::function<nlohmann::json(const Config&)> load;
};

/// THE table, in the order of the documentation.
const std::vector<Key>& key_table();

/// The key of that path; nullptr if there is none.
const Key* find_key(const std::string& path);

/// "" is the whole config; "optimizer.schedule" a section; "seed" is none.
bool is_section(const std::string& path);

/// "an integer from 1 to 65536": what the key allows.
std::string allowed(const Key& key);

/// The default as the reference page and messages show it.
std::string default_text(const Key& key);

/// What to say behind "... is not a key": the nearest key with its range, default and meaning, or the names that its
/// section has.
std::string advice(const std::string& path);

/// "" if the key may have this value, else what it needs ("needs an integer from 1 to 65536").
std::string problem(const Key& key, const nlohmann::json& value);

}  // namespace dither
