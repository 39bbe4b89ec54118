// Files in layers: a file's keys override those of the file that it extends, and --set overrides all of them.
//
// Every value is checked where it is read, so that a mistake is reported with its own file even if another layer
// overrides it. `name` alone is not inherited: two configs with one name would write into one run folder.

#include "src/config/given.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/input_file.h"
#include "src/config/derived.h"   // mark_derived()
#include "src/config/document.h"  // read_document(), read_value(), shown()
#include "src/config/keys.h"      // the table, problem(), advice()
#include "src/config/retired_keys.h"

namespace dither {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr size_t kMostExtends = 64;  // files in a chain; more are a mistake of whatever wrote them

/// One document with its name, before its values are spread by path.
struct Layer {
  std::string origin;
  Json document;
};

/// Spreads a value over the paths below `path` and checks each: sections are walked, keys are stored in `given`.
void spread(const std::string& path, const Json& value, const std::string& origin, int layer, Given& given) {
  if (const Key* key = find_key(path)) {
    const std::string wrong = problem(*key, value);
    if (!wrong.empty()) throw Error(origin + ": " + path + " is " + shown(value) + ", " + wrong);
    if (key->type == KeyType::variation) {
      given.products = read_variations(value, origin);
      given.vary_origin = origin;
    }
    if (key->store) given.values[path] = {std::make_shared<nlohmann::json>(value), origin, layer, false};
    return;
  }
  if (const RetiredKey* retired = find_retired_key(path)) {
    const std::string wrong = problem(retired->key, value);
    if (!wrong.empty()) throw Error(origin + ": " + path + " is " + shown(value) + ", " + wrong);
    given.retired[path] = {std::make_shared<nlohmann::json>(value), origin, layer, false};
    return;
  }
  if (!is_section(path)) throw Error(origin + ": " + path + " is not a key" + advice(path));
  if (!value.is_object()) {
    throw Error(origin + ": " + path + " is " + shown(value) + ", needs an object {...}: it is a section");
  }
  const std::string start = path.empty() ? "" : path + ".";
  for (const auto& [name, part] : value.items()) {
    if (name.empty() || name.find('.') != std::string::npos) {
      throw Error(fmt::format("{}: \"{}\" is not a key: a name has letters and no dot, sections are nested objects",
                              origin, name));
    }
    spread(start + name, part, origin, layer, given);
  }
}

/// The file that a document extends, as a path from the working directory; "" for none.
std::string base_of(const Layer& layer, const fs::path& folder) {
  const auto extends = layer.document.find("extends");
  if (extends == layer.document.end()) return "";
  const std::string wrong = problem(*find_key("extends"), *extends);
  if (!wrong.empty()) throw Error(layer.origin + ": extends is " + shown(*extends) + ", " + wrong);
  return (folder / extends->get<std::string>()).lexically_normal().string();
}

/// Appends the files that `layers.back()` extends; `chain` holds the files read so far.
void follow_extends(std::vector<Layer>& layers, fs::path folder, std::vector<std::string> chain) {
  for (std::string base = base_of(layers.back(), folder); !base.empty(); base = base_of(layers.back(), folder)) {
    const bool circle = std::any_of(chain.begin(), chain.end(), [&base](const std::string& file) {
      std::error_code missing;
      return file == base || fs::equivalent(file, base, missing);
    });
    chain.push_back(base);
    if (!circle && chain.size() > kMostExtends) {
      throw Error(fmt::format("{}: extends leads through more than {} files: {} -> {} -> ... -> {}", chain.front(),
                              kMostExtends, chain[0], chain[1], base));
    }
    if (circle) {
      std::string links;
      for (const std::string& file : chain) links += (links.empty() ? "" : " -> ") + file;
      throw Error(chain.front() + ": extends goes in a circle: " + links);
    }
    const std::string text = read_input(base, kConfigFile, layers.back().origin + ": extends " + base + ", which");
    layers.push_back({base, read_document(text, base)});
    folder = fs::path(base).parent_path();
  }
}

void assign(const std::string& assignment, int layer, Given& given) {
  const size_t equals = assignment.find('=');
  if (equals == 0 || equals == std::string::npos) {
    throw Error("--set: \"" + assignment + "\" needs the form key=value, as in optimizer.learning_rate=3e-4");
  }
  const std::string path = assignment.substr(0, equals), text = assignment.substr(equals + 1);
  const Key* key = find_key(path);
  if (key != nullptr && !key->store) throw Error("--set: " + path + " stands in files alone");
  // A text key takes 4711, true and null as they are; quotes are JSON's, for what a shell would not leave alone.
  const bool is_text = key != nullptr && key->type == KeyType::text;
  Json value;
  if ((is_text && text.rfind('"', 0) != 0) || !read_value(text, "--set", path, value)) value = text;
  spread(path, value, "--set", layer, given);
}

Given combine(std::vector<Layer> layers, const std::vector<std::string>& assignments) {
  Given given;
  given.origin = layers.front().origin;
  std::reverse(layers.begin(), layers.end());  // what is extended comes first
  int depth = 0;
  for (const Layer& layer : layers) {
    given.values.erase("name");
    spread("", layer.document, layer.origin, depth, given);
    mark_derived(layer.document, depth++, given);
  }
  given.assigned_layer = depth;
  for (const std::string& assignment : assignments) assign(assignment, depth, given);
  return given;
}

}  // namespace

const GivenValue* Given::find(const std::string& path) const {
  const auto found = values.find(path);
  return found == values.end() ? nullptr : &found->second;
}

const std::string& Given::origin_of(const std::string& path) const {
  const GivenValue* value = find(path);
  return value != nullptr ? value->origin : origin;
}

Given gather_file(const std::string& path, const std::vector<std::string>& assignments) {
  std::vector<Layer> layers = {{path, read_document(read_input(path, kConfigFile), path)}};
  follow_extends(layers, fs::path(path).parent_path(), {path});
  return combine(std::move(layers), assignments);
}

Given gather_text(const std::string& text, const std::string& origin, const std::vector<std::string>& assignments) {
  std::vector<Layer> layers = {{origin, read_document(text, origin)}};
  follow_extends(layers, "", {});
  Given given = combine(std::move(layers), assignments);
  given.stored = true;
  return given;
}

}  // namespace dither
