// Reading `vary`. JSON objects have no order, so runs are ordered by the table of keys; the seed comes last and varies
// fastest, so that the runs which are compared with each other stand together.

#include "src/config/variations.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "src/config/computation.h"  // decides_computation()
#include "src/config/document.h"     // shown()
#include "src/config/keys.h"         // the table, problem(), advice()
#include "src/config/retired_keys.h"

namespace dither {
namespace {

using Json = nlohmann::json;

constexpr size_t kMostRuns = 10000;  // more is a misprint: a week of runs of a minute each

/// The key that `path` names; `place` is where `vary` says so.
const Key& varied_key(const std::string& path, const std::string& origin, const std::string& place) {
  const Key* key = find_key(path);
  if (key != nullptr && decides_computation(*key)) return *key;
  const std::string where = origin + ": " + place;
  if (key != nullptr && !key->load) throw Error(where + " cannot vary: it says how the file is read");
  if (path == "name") throw Error(where + " cannot vary: runs are named by what varies");
  if (key != nullptr) throw Error(where + " cannot vary: it does not change what a run computes");
  if (!path.empty() && is_section(path)) {
    throw Error(where + " is a section: vary takes whole paths, as in \"optimizer.learning_rate\"");
  }
  if (const RetiredKey* retired = find_retired_key(path)) {
    throw Error(where + " has been replaced by " + retired->replacement + " (" +
                allowed(*find_key(retired->replacement)) + "), " + find_key(retired->replacement)->meaning);
  }
  throw Error(where + " is not a key" + advice(path));
}

[[noreturn]] void fail(const std::string& origin, const std::string& place, const Json& found,
                       const std::string& text) {
  throw Error(origin + ": " + place + " is " + shown(found) + text);
}

std::string element(const std::string& list, size_t index) { return list + "[" + std::to_string(index) + "]"; }

VariedKey read_values(const Key& key, const Json& list, const std::string& origin, const std::string& place) {
  if (!list.is_array() || list.empty()) {
    fail(origin, place, list, ", needs a list of values [...], each " + allowed(key));
  }
  VariedKey varied{&key, {}};
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string wrong = problem(key, list[i]);
    if (!wrong.empty()) fail(origin, element(place, i), list[i], ", " + wrong);
    for (size_t j = 0; j < i; ++j) {  // JSON numbers compare by value: 1e3 repeats 1000
      if (list[j] == list[i]) {
        fail(origin, element(place, i), list[i], " again, as " + element(place, j) + ": keep one");
      }
    }
    varied.values.push_back(std::make_shared<const Json>(list[i]));
  }
  return varied;
}

/// Where a key stands in a product: by the table, the seed behind all others.
std::pair<bool, std::ptrdiff_t> rank_of(const Key* key) { return {key->path == "seed", key - key_table().data()}; }

Product read_product(const Json& object, const std::string& origin, const std::string& at) {
  Product product;
  for (const auto& [path, list] : object.items()) {
    const std::string place = std::string(at).append(".").append(path);
    product.push_back(read_values(varied_key(path, origin, place), list, origin, place));
  }
  std::sort(product.begin(), product.end(),
            [](const VariedKey& a, const VariedKey& b) { return rank_of(a.key) < rank_of(b.key); });
  return product;
}

/// Adds the runs of one object to `runs`, but not beyond kMostRuns; before anything else looks at long lists.
void count_runs(const Json& object, const std::string& origin, size_t& runs) {
  size_t product = 1;
  for (const Json& list : object) {
    const size_t values = list.is_array() && !list.empty() ? list.size() : 1;  // else an error, told by read_values()
    product = values > kMostRuns / product ? kMostRuns + 1 : values * product;
    if (product > kMostRuns) break;
  }
  runs += product;
  if (runs <= kMostRuns) return;
  throw Error(origin + ": vary asks for more than " + std::to_string(kMostRuns) +
              " runs, the product of its lists: shorten them, or give several smaller products as a list");
}

}  // namespace

std::vector<Product> read_variations(const Json& value, const std::string& origin) {
  size_t runs = 0;
  for (const Json& object : value.is_object() ? Json::array({value}) : value) count_runs(object, origin, runs);
  if (value.is_object()) return {read_product(value, origin, "vary")};
  std::vector<Product> products;
  for (size_t i = 0; i < value.size(); ++i) {
    products.push_back(read_product(value[i], origin, element("vary", i)));
  }
  return products;
}

std::vector<Choice> all_choices(const Product& product) {
  std::vector<Choice> choices = {{}};
  for (const VariedKey& varied : product) {
    std::vector<Choice> longer;
    for (const Choice& choice : choices) {
      for (const auto& value : varied.values) {
        longer.push_back(choice);
        longer.back().emplace_back(varied.key, value);
      }
    }
    choices = std::move(longer);
  }
  return choices;
}

}  // namespace dither
