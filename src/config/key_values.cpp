// What a key allows and what a value lacks: one home for both, so that a message cannot contradict its check.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/printable.h"
#include "src/config/derived.h"   // kDerivedKey
#include "src/config/document.h"  // shown()
#include "src/config/keys.h"
#include "src/config/presets.h"   // family_defaults()
#include "src/config/spelling.h"  // nearest_name()

namespace dither {
namespace {

using Json = nlohmann::json;

constexpr size_t kLongestFolderName = 200;           // file systems end at 255; suffixes want room
constexpr double kExactIntegers = 9007199254740992;  // 2^53: below it a double stands for one integer

std::string shown_real(double value) { return fmt::format("{}", value); }

std::string allowed_integers(const IntegerRange& range) {
  return (range.step == 1 ? std::string("an integer") : "a multiple of " + std::to_string(range.step)) + " from " +
         std::to_string(range.least) + " to " + std::to_string(range.most);
}

std::string allowed_reals(const RealRange& range, const std::string& what) {
  if (!range.low_open && !range.high_open) {
    return what + " from " + shown_real(range.low) + " to " + shown_real(range.high);
  }
  return what + (range.low_open ? " above " : " of at least ") + shown_real(range.low) + " and " +
         (range.high_open ? "below " : "at most ") + shown_real(range.high);
}

std::string allowed_text(TextRule rule) {
  switch (rule) {
    case TextRule::any:
      return "a text";
    case TextRule::path:
      return "a path, not empty";
    case TextRule::optional_path:
      return "a path, or \"\"";
    case TextRule::folder_name:
      return "1 to " + std::to_string(kLongestFolderName) +
             " characters without '/', '\\', '..', control characters or a leading '.'";
  }
  return "";
}

bool fits_integers(const IntegerRange& range, const Json& value) {
  if (value.is_number_float()) {  // 1e4 is an integer to JSON Schema too; above 2^53 it might not be the one written
    const auto real = value.get<double>();
    return real == std::floor(real) && std::fabs(real) < kExactIntegers &&
           fits_integers(range, Json(static_cast<int64_t>(real)));
  }
  if (!value.is_number_integer()) return false;
  const bool negative = !value.is_number_unsigned() && value.get<int64_t>() < 0;
  if (negative) return value.get<int64_t>() >= range.least;  // ranges with a step begin above 0
  const auto number = value.get<uint64_t>();
  return number <= range.most && (range.least <= 0 || number >= static_cast<uint64_t>(range.least)) &&
         number % range.step == 0;
}

bool fits_reals(const RealRange& range, const Json& value) {
  if (!value.is_number()) return false;
  const auto number = value.get<double>();
  return (range.low_open ? number > range.low : number >= range.low) &&
         (range.high_open ? number < range.high : number <= range.high);
}

/// --set and file names may bring bytes that JSON, and so the run's own config.json, cannot hold.
bool is_utf8(const std::string& text) {
  try {
    return !Json(text).dump().empty();
  } catch (const Json::exception&) {
    return false;
  }
}

bool fits_text(TextRule rule, const std::string& text) {
  if (!is_utf8(text)) return false;
  if (rule == TextRule::any) return true;
  const bool control = visible(text) != text || text.find_first_of("\n\t") != std::string::npos;
  if (control || (text.empty() && rule != TextRule::optional_path)) return false;
  if (rule != TextRule::folder_name) return true;
  return text.size() <= kLongestFolderName && text.find_first_of("/\\") == std::string::npos &&
         text.find("..") == std::string::npos && text[0] != '.';
}

bool is_word(const Key& key, const Json& value) {
  return value.is_string() && std::any_of(key.words.begin(), key.words.end(), [&value](const Word& word) {
           return word.name == value.get_ref<const std::string&>();
         });
}

/// The outer form alone: read_variations() looks inside, where its messages can name the place.
bool fits_variation(const Json& value) {
  const auto is_product = [](const Json& object) { return object.is_object() && !object.empty(); };
  return is_product(value) ||
         (value.is_array() && !value.empty() && std::all_of(value.begin(), value.end(), is_product));
}

bool fits(const Key& key, const Json& value) {
  switch (key.type) {
    case KeyType::boolean:
      return value.is_boolean();
    case KeyType::integer:
      return fits_integers(key.integers, value);
    case KeyType::real:
      return fits_reals(key.reals, value);
    case KeyType::pair:
      return value.is_array() && value.size() == 2 && fits_reals(key.reals, value[0]) &&
             fits_reals(key.reals, value[1]);
    case KeyType::word:
      return is_word(key, value);
    case KeyType::words:
      return value.is_array() && std::all_of(value.begin(), value.end(), [&](const Json& item) {
               return is_word(key, item) && std::count(value.begin(), value.end(), item) == 1;
             });
    case KeyType::text:
      return value.is_string() && fits_text(key.rule, value.get_ref<const std::string&>());
    case KeyType::variation:
      return fits_variation(value);
  }
  return false;
}

std::vector<std::string> names_of(const std::vector<Word>& words) {
  std::vector<std::string> names;
  names.reserve(words.size());
  for (const Word& word : words) names.push_back(word.name);
  return names;
}

}  // namespace

std::string allowed(const Key& key) {
  switch (key.type) {
    case KeyType::boolean:
      return "true or false";
    case KeyType::integer:
      return allowed_integers(key.integers);
    case KeyType::real:
      return allowed_reals(key.reals, "a real");
    case KeyType::pair:
      return allowed_reals(key.reals, "two reals");
    case KeyType::text:
      return allowed_text(key.rule);
    case KeyType::variation:
      return "an object of key paths, each with a list of values, or a list of such objects";
    case KeyType::word:
    case KeyType::words:
      break;
  }
  const std::string begin = key.type == KeyType::word ? "one of " : "a list without repetition of ";
  std::string list;
  for (const Word& word : key.words) {
    list += (list.empty() ? begin : ", ") + (word.name.empty() ? "\"\"" : word.name);
  }
  return list;
}

std::string problem(const Key& key, const Json& value) {
  if (fits(key, value)) return "";
  std::string text = "needs " + allowed(key);
  if (key.type == KeyType::word && value.is_string()) {
    const std::string nearest = nearest_name(value.get_ref<const std::string&>(), names_of(key.words));
    if (!nearest.empty()) text += "\n       nearest: " + nearest;
  }
  return text;
}

std::string advice(const std::string& path) {
  std::vector<std::string> names;
  for (const Key& key : key_table()) {
    names.push_back(key.path);
    for (size_t dot = key.path.find('.'); dot != std::string::npos; dot = key.path.find('.', dot + 1)) {
      names.push_back(key.path.substr(0, dot));  // its sections
    }
  }
  const std::string nearest = nearest_name(path, names);
  if (const Key* key = find_key(nearest)) {
    return "\n       nearest: " + nearest + " (" + allowed(*key) + (key->required ? ", " : ", default ") +
           default_text(*key) + "), " + key->meaning;
  }
  if (!nearest.empty()) return "\n       nearest: " + nearest + ", a section";

  const size_t dot = path.rfind('.');
  std::string section = dot == std::string::npos ? "" : path.substr(0, dot);
  if (!is_section(section)) section = "";
  const std::string start = section.empty() ? "" : section + ".";
  std::string list, last;
  for (const Key& key : key_table()) {
    if (key.path.compare(0, start.size(), start) != 0 || key.path == kDerivedKey) continue;  // nobody writes that one
    const std::string name = key.path.substr(start.size(), key.path.find('.', start.size()) - start.size());
    if (name != last) list += (list.empty() ? "" : ", ") + name;
    last = name;
  }
  return "\n       allowed" + (section.empty() ? "" : " in " + section) + ": " + list;
}

std::string default_text(const Key& key) {
  if (key.required) return "required";
  if (!key.default_note.empty()) return key.default_note;
  if (key.path.rfind("model.", 0) != 0 || key.path == "model.preset") return shown(key.load(Config{}));
  Config gpt2, llama;
  gpt2.model = family_defaults(Architecture::gpt2);
  llama.model = family_defaults(Architecture::llama);
  const std::string of_gpt2 = shown(key.load(gpt2)), of_llama = shown(key.load(llama));
  if (of_gpt2 == of_llama) return "the preset's, else " + of_llama;
  return "the preset's, else gpt2: " + of_gpt2 + ", llama: " + of_llama;
}

}  // namespace dither
