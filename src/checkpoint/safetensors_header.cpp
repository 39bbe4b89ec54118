// A parser of JSON events that knows the few places where something may stand in the header, so that a hostile one
// (nested a million deep, keys twice, numbers beyond 64 bits) is refused where it begins to differ and never becomes a
// tree.
#include "src/checkpoint/safetensors_header.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"

namespace dither {
namespace {

constexpr size_t kShownCharacters = 80;  // of a name in a message: a damaged header may hold a very long one

/// Receives the header's JSON event by event. A function that returns false ends the parse; `problem` then says why.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  SafetensorsHeader header;
  std::string problem;

  bool start_object(size_t) override {
    if (place_ == Place::before) return go(Place::top);
    if (place_ == Place::top_value) return go(is_metadata_ ? Place::metadata : Place::tensor);
    return misplaced("an object");
  }
  bool end_object() override { return go(place_ == Place::top ? Place::after : Place::top); }

  bool key(string_t& text) override {
    key_ = text;
    if (place_ == Place::top) {
      if (!names_.insert(text).second) return refuse(fmt::format("the header has {} twice", shown_text(text)));
      is_metadata_ = text == kSafetensorsMetadata;
      if (!is_metadata_) header.tensors.push_back({text, {}, {}, {}, {}});
      return go(Place::top_value);
    }
    if (place_ == Place::metadata) {
      if (header.metadata.count(text) != 0) return refuse(fmt::format("the metadata has {} twice", shown_text(text)));
      return go(Place::metadata_value);
    }
    SafetensorsHeader::Tensor& tensor = header.tensors.back();
    if (text != "dtype" && text != "shape" && text != "data_offsets") {
      return refuse(fmt::format("tensor {} has the key {}, allowed are dtype, shape, data_offsets",
                                shown_text(tensor.name), shown_text(text)));
    }
    if (!tensor.keys.insert(text).second) {
      return refuse(fmt::format("tensor {} has {} twice", shown_text(tensor.name), text));
    }
    return go(text == "dtype" ? Place::type_value : Place::list_value);
  }

  bool string(string_t& text) override {
    if (place_ == Place::metadata_value) {
      header.metadata[key_] = text;
      return go(Place::metadata);
    }
    if (place_ != Place::type_value) return misplaced("a string");
    header.tensors.back().type = text;
    return go(Place::tensor);
  }
  bool start_array(size_t) override { return place_ == Place::list_value ? go(Place::list) : misplaced("a list"); }
  bool end_array() override { return go(Place::tensor); }
  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::list) return misplaced("a number");
    if (value > static_cast<uint64_t>(INT64_MAX)) return misplaced(fmt::format("the number {}", value));
    SafetensorsHeader::Tensor& tensor = header.tensors.back();
    (key_ == "shape" ? tensor.shape : tensor.offsets).push_back(static_cast<int64_t>(value));
    return true;
  }
  bool number_integer(number_integer_t value) override { return misplaced(fmt::format("the number {}", value)); }
  bool number_float(number_float_t, const string_t& text) override {
    return misplaced("the number " + shown_text(text));
  }
  bool boolean(bool value) override { return misplaced(value ? "true" : "false"); }
  bool null() override { return misplaced("null"); }
  bool binary(binary_t&) override { return misplaced("binary data"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    return refuse(fmt::format("the header is not valid JSON at its byte {}", position));
  }

 private:
  // Where the next event stands: between keys (top, metadata, tensor, list), or where a key's value must come.
  enum class Place { before, top, top_value, metadata, metadata_value, tensor, type_value, list_value, list, after };

  bool go(Place place) {
    place_ = place;
    return true;
  }
  bool refuse(const std::string& what) {
    problem = what;
    return false;
  }
  bool misplaced(const std::string& found) {
    const char* needed = place_ == Place::metadata_value ? "a string"
                         : place_ == Place::type_value   ? "a string"
                         : place_ == Place::list_value   ? "a list"
                         : place_ == Place::list         ? "an integer from 0 to 2^63-1"
                                                         : "an object";
    const std::string who = is_metadata_ ? "the metadata" : "tensor " + shown_text(header.tensors.back().name);
    return refuse(fmt::format("{} has {} at {}, needs {}", who, found, shown_text(key_), needed));
  }

  Place place_ = Place::before;
  bool is_metadata_ = false;
  std::string key_;
  std::set<std::string> names_;
};

}  // namespace

SafetensorsHeader read_safetensors_header(std::string_view json, const std::string& origin) {
  // The JSON library skips a byte order mark and takes a zero byte for the end: neither may hide what follows.
  if (json.empty() || json[0] != '{' || json.find('\0') != std::string_view::npos) {
    fail_safetensors(origin, "the header does not begin with { or holds a zero byte");
  }
  HeaderReader reader;
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &reader)) fail_safetensors(origin, reader.problem);
  return std::move(reader.header);
}

std::string shown_text(std::string_view text) {
  std::string result(text.substr(0, kShownCharacters));
  for (char& c : result) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return "\"" + result + (text.size() > kShownCharacters ? "...\"" : "\"");
}

void fail_safetensors(const std::string& origin, const std::string& what) {
  throw Error(fmt::format("{}: {}\n       not a whole safetensors file: write or copy it again", origin, what));
}

}  // namespace dither
