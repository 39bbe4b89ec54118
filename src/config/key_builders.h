// Builders of the table's lines (keys.cpp): each ties a path to its field and its type.
//
// FIELD(optimizer.epsilon) gives both the text "optimizer.epsilon" and the access config.optimizer.epsilon: a macro,
// because only a macro can use one spelling for both.
#pragma once

#include <nlohmann/json_fwd.hpp>  // keys.cpp includes json.hpp first
#include <type_traits>
#include <utility>

#include "src/config/keys.h"

#define FIELD(path) \
#path, [](auto& config) -> auto& { return config.path; }

namespace dither {

/// A line under construction: the key, and what the line says about its default.
struct KeyLine : Key {
  KeyLine by(const char* note) && {
    default_note = note;
    return std::move(*this);
  }
  KeyLine needed() && {
    required = true;
    return std::move(*this);
  }
};

template <class Access>
KeyLine line(const char* path, Access at, KeyType type, const char* meaning) {
  using Field = std::remove_reference_t<decltype(at(std::declval<Config&>()))>;
  KeyLine key;
  key.path = path;
  key.type = type;
  key.meaning = meaning;
  if constexpr (!std::is_enum_v<Field>) {  // word() does it for enums
    key.store = [at](Config& config, const nlohmann::json& value) { at(config) = value.get<Field>(); };
    key.load = [at](const Config& config) { return nlohmann::json(at(config)); };
  }
  return key;
}

template <class Access>
KeyLine boolean(const char* path, Access at, const char* meaning) {
  return line(path, at, KeyType::boolean, meaning);
}

template <class Access>
KeyLine integer(const char* path, Access at, IntegerRange range, const char* meaning) {
  KeyLine key = line(path, at, KeyType::integer, meaning);
  key.integers = range;
  return key;
}

template <class Access>
KeyLine real(const char* path, Access at, RealRange range, const char* meaning) {
  KeyLine key = line(path, at, KeyType::real, meaning);
  key.reals = range;
  return key;
}

template <class Access>
KeyLine pair(const char* path, Access at, RealRange range, const char* meaning) {
  KeyLine key = line(path, at, KeyType::pair, meaning);
  key.reals = range;
  return key;
}

template <class Access>
KeyLine text(const char* path, Access at, TextRule rule, const char* meaning) {
  KeyLine key = line(path, at, KeyType::text, meaning);
  key.rule = rule;
  return key;
}

template <class Access>
KeyLine word(const char* path, Access at, std::vector<Word> words, const char* meaning) {
  using Field = std::remove_reference_t<decltype(at(std::declval<Config&>()))>;
  KeyLine key = line(path, at, KeyType::word, meaning);
  if constexpr (std::is_enum_v<Field>) {
    key.store = [at, words](Config& config, const nlohmann::json& value) {
      for (const Word& w : words) {
        if (w.name == value.get_ref<const std::string&>()) at(config) = static_cast<Field>(w.value);
      }
    };
    key.load = [at, words](const Config& config) {
      for (const Word& w : words) {
        if (static_cast<Field>(w.value) == at(config)) return nlohmann::json(w.name);
      }
      return nlohmann::json();  // unreachable: fields are written by store() alone
    };
  }
  key.words = std::move(words);
  return key;
}

/// A list of words, each at most once; the field is a vector of an enum.
template <class Access>
KeyLine word_list(const char* path, Access at, std::vector<Word> words, const char* meaning) {
  using Enum = typename std::remove_reference_t<decltype(at(std::declval<Config&>()))>::value_type;
  KeyLine key;
  key.path = path;
  key.type = KeyType::words;
  key.meaning = meaning;
  key.store = [at, words](Config& config, const nlohmann::json& value) {
    at(config).clear();
    for (const Word& w : words) {
      for (const auto& name : value) {
        if (w.name == name.template get_ref<const std::string&>()) at(config).push_back(static_cast<Enum>(w.value));
      }
    }
  };
  key.load = [at, words](const Config& config) {
    nlohmann::json list = nlohmann::json::array();
    for (const Enum item : at(config)) {
      for (const Word& w : words) {
        if (static_cast<Enum>(w.value) == item) list.push_back(w.name);
      }
    }
    return list;
  };
  key.words = std::move(words);
  return key;
}

/// A key about the file itself, with no field.
inline KeyLine directive(const char* path, KeyType type, const char* meaning) {
  KeyLine key;
  key.path = path;
  key.type = type;
  key.meaning = meaning;
  key.rule = TextRule::path;  // of a text
  key.default_note = "none";
  return key;
}

}  // namespace dither
