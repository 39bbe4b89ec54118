#include "src/config/retired_keys.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "src/config/document.h"  // shown()

namespace dither {
namespace {

using Json = nlohmann::json;

Key retired(const char* path, KeyType type, IntegerRange range) {
  Key key;
  key.path = path;
  key.type = type;
  key.integers = range;
  return key;
}

/// evaluation.batches counted micro-batches, so that the batch size chose what was judged.
RetiredKey evaluation_batches() {
  const auto targets = [](const Json& batches, const Config& config) -> Json {
    const double product = batches.get<double>() * config.batch.micro_batch_size * config.model.sequence_length;
    const uint64_t most = find_key("evaluation.tokens")->integers.most;
    if (product >= static_cast<double>(most)) return most;
    return batches.get<uint64_t>() * static_cast<uint64_t>(config.batch.micro_batch_size) *
           static_cast<uint64_t>(config.model.sequence_length);
  };
  const auto words = [](const Json& batches, const Config& config) -> std::string {
    if (batches.get<uint64_t>() == 0) return "the whole set";
    return fmt::format("{} micro-batches of {} sequences of {} tokens", batches.get<uint64_t>(),
                       config.batch.micro_batch_size, config.model.sequence_length);
  };
  return {retired("evaluation.batches", KeyType::integer, {0, 4294967295}), "evaluation.tokens", targets, words};
}

}  // namespace

const RetiredKey* find_retired_key(const std::string& path) {
  static const RetiredKey batches = evaluation_batches();
  return path == batches.key.path ? &batches : nullptr;
}

void apply_retired_keys(const Given& given, Config& config) {
  for (const auto& [path, old] : given.retired) {
    const RetiredKey& retired = *find_retired_key(path);
    const Json value = retired.translate(*old.value, config);
    if (!given.stored || old.layer >= given.assigned_layer) {
      throw Error(fmt::format("{}: {} is {}, but the key has been replaced by {}\n       cure: {} {} ({})", old.origin,
                              path, shown(*old.value), retired.replacement, retired.replacement, shown(value),
                              retired.reckoning(*old.value, config)));
    }
    if (given.find(retired.replacement) == nullptr) find_key(retired.replacement)->store(config, value);
  }
}

}  // namespace dither
