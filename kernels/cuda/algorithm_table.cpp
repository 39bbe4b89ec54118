// The table of algorithms to JSON and back. What is read is checked key by key: a table decides the bits of a run.
#include "kernels/cuda/algorithm_table.h"

#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "base/error.h"

namespace dither::cuda {

namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kProducts[] = {"linear_forward", "linear_input_gradient", "linear_weight_gradient"};
constexpr const char* kEpilogues[] = {"none", "bias", "gelu", "gelu_bias", "bias_gradient"};
constexpr const char* kTypes[] = {"none", "bf16", "fp32"};
constexpr int kDigits = 16;  // of a word
constexpr const char* kHexadecimal = "0123456789abcdef";

template <class Value, size_t count>
const char* name_in(const char* const (&names)[count], Value value) {
  return names[static_cast<size_t>(value)];
}

std::string text_of(const TableOrigin& origin) {
  return origin.device + " (compute capability " + origin.compute_capability + ", cuBLASLt " +
         std::to_string(origin.cublaslt) + ")";
}

std::string hexadecimal(const std::array<uint64_t, 8>& words) {
  std::string text;
  for (const uint64_t word : words) {
    for (int digit = kDigits - 1; digit >= 0; --digit) text += kHexadecimal[(word >> (4 * digit)) & 15];
  }
  return text;
}

/// One object of the table: hands out its values, each checked, and at the end refuses those that nobody asked for.
class Reader {
 public:
  /// Messages call the object `name`, and its values `prefix` and their key.
  Reader(const Json& object, const std::string& name, std::string prefix)
      : object_(object), prefix_(std::move(prefix)) {
    if (!object.is_object()) throw_misfit(name, object, "an object");
  }

  std::string text(const char* key) {
    const Json& value = take(key);
    if (!value.is_string()) fail(key, value, "text");
    return value.get<std::string>();
  }
  int64_t integer(const char* key, int64_t least, int64_t most) {
    const Json& value = take(key);
    const bool fits = value.is_number_integer() && value <= INT64_MAX && value >= least && value <= most;
    if (!fits) fail(key, value, "an integer from " + std::to_string(least) + " to " + std::to_string(most));
    return value.get<int64_t>();
  }
  bool truth(const char* key) {
    const Json& value = take(key);
    if (!value.is_boolean()) fail(key, value, "true or false");
    return value.get<bool>();
  }
  /// 0 where the key is absent.
  double seconds(const char* key) {
    if (!object_.contains(key)) return 0;
    const Json& value = take(key);
    if (!value.is_number() || !(value.get<double>() > 0)) fail(key, value, "a number above 0");
    return value.get<double>();
  }
  /// Which of the names it is; the first `skipped` are not allowed.
  template <class Value, size_t count>
  Value one_of(const char* key, const char* const (&names)[count], size_t skipped = 0) {
    const std::string value = text(key);
    std::string allowed;
    for (size_t i = skipped; i < count; ++i) {
      if (value == names[i]) return static_cast<Value>(i);
      allowed += (i > skipped ? ", " : "") + std::string(names[i]);
    }
    fail(key, value, "one of: " + allowed);
  }
  const Json& array(const char* key) {
    const Json& value = take(key);
    if (!value.is_array()) fail(key, value, "an array");
    return value;
  }
  std::array<uint64_t, 8> words(const char* key) {
    const std::string digits = text(key);
    std::array<uint64_t, 8> result{};
    const bool right =
        digits.size() == result.size() * kDigits && digits.find_first_not_of(kHexadecimal) == std::string::npos;
    if (!right) fail(key, digits, "128 hexadecimal digits");
    for (size_t i = 0; i < result.size(); ++i) {
      result[i] = std::stoull(digits.substr(i * kDigits, kDigits), nullptr, 16);
    }
    return result;
  }
  void finish() const {
    for (const auto& [key, value] : object_.items()) {
      if (taken_.count(key) == 0) throw Error(prefix_ + key + " is not a key of a table of algorithms");
    }
  }
  [[noreturn]] void fail(const std::string& key, const Json& found, const std::string& allowed) const {
    throw_misfit(prefix_ + key, found, allowed);
  }

 private:
  [[noreturn]] static void throw_misfit(const std::string& name, const Json& found, const std::string& allowed) {
    throw Error(name + " is " + found.dump(-1, ' ', false, Json::error_handler_t::replace) + ", needs " + allowed);
  }
  const Json& take(const char* key) {
    if (!object_.contains(key)) throw Error(prefix_ + key + " is missing: this is not a whole table of algorithms");
    taken_.insert(key);
    return object_.at(key);
  }

  const Json& object_;
  std::string prefix_;
  std::set<std::string> taken_;
};

ProductKey read_key(Reader& reader) {
  constexpr int64_t kMost = INT64_MAX;
  const auto product = reader.one_of<LinearProduct>("operation", kProducts);
  ProductKey key{.product = product,
                 .N = reader.integer("N", 1, kMost),
                 .I = reader.integer("I", 8, kMost),
                 .O = reader.integer("O", 8, kMost),
                 .operands = reader.one_of<DType>("operands", kTypes, 1),
                 .result = reader.one_of<DType>("result", kTypes, 1),
                 .epilogue = reader.one_of<ProductEpilogue>("epilogue", kEpilogues),
                 .alignment = static_cast<int>(reader.integer("alignment", 1, kLargestAlignment))};
  if ((key.alignment & (key.alignment - 1)) != 0) reader.fail("alignment", key.alignment, "a power of two");
  const bool weight = product == LinearProduct::weight_gradient;
  if (!weight && key.result != key.operands) {
    reader.fail("result", name_of(key.result), "the type of the operands: only a weight gradient has another");
  }
  const bool belongs = key.epilogue == ProductEpilogue::none ||
                       (key.epilogue == ProductEpilogue::bias_gradient ? weight : product == LinearProduct::forward);
  if (!belongs) reader.fail("epilogue", name_in(kEpilogues, key.epilogue), "one that this operation has");
  return key;
}

void read_product(const Json& entry, const std::string& name, AlgorithmTable& table) {
  Reader reader(entry, name, name + ".");
  const ProductKey key = read_key(reader);
  const Algorithm algorithm{.words = reader.words("algorithm"),
                            .fused = reader.truth("fused"),
                            .split_k = static_cast<int>(reader.integer("split_k", INT32_MIN, INT32_MAX)),
                            .tile = static_cast<int>(reader.integer("tile", 0, INT32_MAX)),
                            .stages = static_cast<int>(reader.integer("stages", 0, INT32_MAX)),
                            .seconds = reader.seconds("seconds")};
  reader.finish();
  const bool possible = algorithm.fused ? can_be_fused(key) : can_be_unfused(key.epilogue);
  if (!possible) reader.fail("fused", algorithm.fused, algorithm.fused ? "false: FP32 is never fused" : "true");
  if (!table.emplace(key, algorithm).second) {
    throw Error(name + " is the second entry for " + text_of(key));
  }
}

}  // namespace

std::string text_of(const ProductKey& key) {
  std::string types = name_of(key.operands);
  if (key.result != key.operands) types += std::string(" to ") + name_of(key.result);
  return std::string(name_in(kProducts, key.product)) + " N=" + std::to_string(key.N) + " I=" + std::to_string(key.I) +
         " O=" + std::to_string(key.O) + " " + types;
}

std::string to_json(const TableOrigin& origin, const AlgorithmTable& table) {
  Json products = Json::array();
  for (const auto& [key, algorithm] : table) {
    Json entry = {{"operation", name_in(kProducts, key.product)},
                  {"N", key.N},
                  {"I", key.I},
                  {"O", key.O},
                  {"operands", name_of(key.operands)},
                  {"result", name_of(key.result)},
                  {"epilogue", name_in(kEpilogues, key.epilogue)},
                  {"alignment", key.alignment},
                  {"fused", algorithm.fused},
                  {"algorithm", hexadecimal(algorithm.words)},
                  {"split_k", algorithm.split_k},
                  {"tile", algorithm.tile},
                  {"stages", algorithm.stages}};
    if (algorithm.seconds > 0) entry["seconds"] = algorithm.seconds;
    products.push_back(std::move(entry));
  }
  const Json whole = {{"device", origin.device},
                      {"compute_capability", origin.compute_capability},
                      {"cublaslt", origin.cublaslt},
                      {"products", std::move(products)}};
  return whole.dump(1) + "\n";
}

AlgorithmTable algorithms_from_json(const std::string& json, const std::string& where, const TableOrigin& here) {
  Json whole;
  if (json.find('\0') != std::string::npos) throw Error(where + ": has a zero byte: the file is damaged");
  try {
    whole = Json::parse(json);
  } catch (const Json::parse_error& error) {
    throw Error(where + ": is not JSON (byte " + std::to_string(error.byte) +
                "), needs a table of algorithms as `dither tune` writes it");
  }
  Reader reader(whole, where + ": the table", where + ": ");
  const TableOrigin origin{.device = reader.text("device"),
                           .compute_capability = reader.text("compute_capability"),
                           .cublaslt = reader.integer("cublaslt", 0, INT64_MAX)};
  if (!(origin == here)) {
    throw Error(
        where + ": these algorithms belong to " + text_of(origin) + ", here is " + text_of(here) +
        ": it has others, so the bits would differ; make a table for it with `dither tune`, or go on without one");
  }
  AlgorithmTable table;
  const Json& products = reader.array("products");
  for (size_t i = 0; i < products.size(); ++i) {
    read_product(products[i], where + ": products[" + std::to_string(i) + "]", table);
  }
  reader.finish();
  return table;
}

}  // namespace dither::cuda
