// The key `vary` of a config file: which keys take which values, and the runs that their products are.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

namespace dither {

struct Key;

/// One key and the values it takes, in the order of the file.
struct VariedKey {
  const Key* key;
  std::vector<std::shared_ptr<const nlohmann::json>> values;  // at least one, each legal, no two equal
};

/// One object of `vary`: every combination of its values is a run. In the order of the table of keys, seed last.
using Product = std::vector<VariedKey>;

/// One run's choice: a value for each key of its product.
using Choice = std::vector<std::pair<const Key*, std::shared_ptr<const nlohmann::json>>>;

/// Reads the value of `vary`, whose outer form problem() found nothing wrong with; `origin` names the file.
/// Throws Error: a key that is none (with the nearest), a section, a key that cannot vary, an empty list, an illegal or
/// repeated value, more than 10,000 runs.
std::vector<Product> read_variations(const nlohmann::json& value, const std::string& origin);

/// All choices of a product; the last key varies fastest.
std::vector<Choice> all_choices(const Product& product);

}  // namespace dither
