// Strict reading of one JSON document, by the events of nlohmann's parser. Comments and commas before a closing bracket
// are taken out before (JSONC), as blanks, so that lines and columns stay what they are.
//
// The library's own tree keeps the last of several equal keys and says nothing; its events show them all. The parser
// does not recurse, and depth is bounded here before anything that does (destruction, printing) sees the value.

#include "src/config/document.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"

namespace dither {
namespace {

using Json = nlohmann::json;

constexpr size_t kDeepest = 16;        // the config itself needs 3
constexpr size_t kLongestShown = 60;   // characters of a value in a message
constexpr size_t kLongestError = 160;  // characters of the parser's explanation: it repeats the token it read
constexpr double kExactIntegers = 9007199254740992;  // 2^53: up to it a number with a point may stand for an integer

std::string cut(const std::string& text, size_t longest) {
  return text.size() <= longest ? text : text.substr(0, longest) + "...";
}

/// Whether a decimal number (JSON's syntax) is exactly this integer.
bool is_written_as(const std::string& text, double integer) {
  std::string digits;
  int64_t point = -1;  // digits before it
  size_t i = 0;
  for (; i < text.size() && text[i] != 'e' && text[i] != 'E'; ++i) {
    if (text[i] == '.') point = static_cast<int64_t>(digits.size());
    if (text[i] >= '0' && text[i] <= '9') digits += text[i];
  }
  if (point < 0) point = static_cast<int64_t>(digits.size());
  const size_t first = std::min(digits.find_first_not_of('0'), digits.size());
  if (first == digits.size()) return integer == 0;
  if (i < text.size()) point += std::strtol(text.c_str() + i + 1, nullptr, 10);
  digits.resize(digits.find_last_not_of('0') + 1);
  std::string whole = std::to_string(static_cast<int64_t>(std::fabs(integer)));
  const auto length = static_cast<int64_t>(whole.size());
  whole.resize(whole.find_last_not_of('0') + 1);
  return integer != 0 && digits.substr(first) == whole && point - static_cast<int64_t>(first) == length;
}

/// `text` with comments (// and /* */) and commas before a closing bracket as blanks.
std::string without_comments(std::string text) {
  size_t comma = std::string::npos;  // the last one, while nothing but blanks follows it
  char before = '\0';                // the last character that is no blank and no comment
  const auto blank = [&text](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      if (text[i] != '\n') text[i] = ' ';
    }
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i], next = i + 1 < text.size() ? text[i + 1] : '\0';
    if (c == ' ' || c == '\t' || c == '\r' || c == '\n') continue;
    if (c == '/' && (next == '/' || next == '*')) {
      size_t end = next == '/' ? text.find('\n', i) : text.find("*/", i + 2);
      if (end == std::string::npos && next == '*') return text;  // never closed: the parser complains of its beginning
      end = std::min(end, text.size()) + (next == '*' ? 2 : 0);
      blank(i, end);
      i = end - 1;
      continue;
    }
    if ((c == '}' || c == ']') && comma != std::string::npos) blank(comma, comma + 1);
    comma = c == ',' && before != '{' && before != '[' && before != ',' && before != '\0' ? i : std::string::npos;
    before = c;
    if (c != '"') continue;
    for (++i; i < text.size() && text[i] != '"' && text[i] != '\n'; ++i) {
      if (text[i] == '\\') ++i;
    }
  }
  return text;
}

/// Where the parser gave up, and why; a value of its own because --set tries JSON first and then takes the text.
struct SyntaxError {
  size_t position;  // bytes read, the offending one included
  std::string reason;
};

/// Builds the value from the parser's events. `path` names the place in messages.
class TreeBuilder final : public Json::json_sax_t {
 public:
  TreeBuilder(std::string origin, std::string path) : origin_(std::move(origin)), root_path_(std::move(path)) {}

  bool null() override { throw Error(place() + " is null: give a value, or leave the key out for its default"); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t& text) override {
    if (std::fabs(value) <= kExactIntegers && value == std::floor(value) && !is_written_as(text, value)) {
      throw Error(place() + " is " + cut(text, kLongestShown) + ", which would be rounded to " +
                  std::to_string(static_cast<int64_t>(value)) + ": write the number that is meant, with fewer digits");
    }
    return add(value);
  }
  bool string(string_t& value) override { return add(value); }
  bool binary(binary_t&) override { return false; }  // not in JSON text
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    key_ = name;
    if (open_.back()->contains(name)) throw Error(place() + " stands twice in the same object: keep one");
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    const std::string what = error.what();  // "[json.exception...] parse error at ...: syntax error ... - reason"
    const size_t dash = what.find(" - ");
    const size_t reason = dash != std::string::npos ? dash + 3 : what.find("] ") + 2;
    throw SyntaxError{position, cut(what.substr(reason), kLongestError)};
  }

  Json take() { return std::move(root_); }

 private:
  /// "file: dotted.path" of the value that the next event brings.
  std::string place() const {
    std::string path = root_path_;
    const auto append = [&path](const std::string& part) { path += (path.empty() ? "" : ".") + part; };
    for (const std::string& part : path_) {
      if (!part.empty()) append(part);
    }
    if (!open_.empty() && open_.back()->is_object()) append(key_);
    return origin_ + ": " + (path.empty() ? "the document" : cut(path, 4 * kLongestShown));
  }

  Json* put(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    return &((*open_.back())[key_] = std::move(value));
  }

  bool add(Json value) {
    put(std::move(value));
    return true;
  }

  bool open(Json container) {
    if (open_.size() == kDeepest) throw Error(place() + " is nested more than " + std::to_string(kDeepest) + " deep");
    path_.push_back(!open_.empty() && open_.back()->is_object() ? key_ : "");
    open_.push_back(put(std::move(container)));
    return true;
  }

  bool close() {
    open_.pop_back();
    path_.pop_back();
    return true;
  }

  std::string origin_, root_path_, key_;
  std::vector<std::string> path_;  // key under which each open container stands; "" in arrays and at the root
  std::vector<Json*> open_;        // containers from the root down; a parent does not change while its child is open
  Json root_;
};

/// Line and column, both from 1, of the `position`th byte.
std::string line_and_column(const std::string& text, size_t position) {
  const size_t before = std::min(position == 0 ? 0 : position - 1, text.size());
  const auto end = text.begin() + static_cast<std::ptrdiff_t>(before);
  const auto line = 1 + std::count(text.begin(), end, '\n');
  const size_t newline = before == 0 ? std::string::npos : text.rfind('\n', before - 1);
  const size_t column = newline == std::string::npos ? before + 1 : before - newline;
  return std::to_string(line) + ":" + std::to_string(column);
}

Json parse_strictly(const std::string& text, const std::string& origin, const std::string& path) {
  // The parser would take it for the end, and what follows it for nothing.
  if (const size_t zero = text.find('\0'); zero != std::string::npos) {
    throw SyntaxError{zero + 1, "a zero byte, which no text has; is it UTF-16, or a damaged file?"};
  }
  TreeBuilder builder(origin, path);
  Json::sax_parse(text, &builder);
  return builder.take();
}

}  // namespace

Json read_document(const std::string& text, const std::string& origin) {
  try {
    Json document = parse_strictly(without_comments(text), origin, "");
    if (!document.is_object()) throw Error(origin + ": the document is " + shown(document) + ", needs an object {...}");
    return document;
  } catch (const SyntaxError& error) {
    throw Error(origin + ":" + line_and_column(text, error.position) + ": invalid JSON: " + error.reason);
  }
}

bool read_value(const std::string& text, const std::string& origin, const std::string& path, Json& value) {
  try {
    value = parse_strictly(text, origin, path);
    return true;
  } catch (const SyntaxError&) {
    return false;
  }
}

std::string shown(const Json& value) {
  if (value.is_array()) {  // with blanks, as people write it
    std::string list;
    for (const Json& element : value) {
      if (list.size() > kLongestShown) break;
      list += (list.empty() ? "" : ", ") + shown(element);
    }
    return cut("[" + list + "]", kLongestShown);
  }
  return cut(value.dump(-1, ' ', false, Json::error_handler_t::replace), kLongestShown);
}

}  // namespace dither
