#include "src/checkpoint/state_tensors.h"

#include <fmt/format.h>

#include <limits>
#include <set>

#include "base/error.h"
#include "src/checkpoint/state_map.h"

namespace dither {

std::array<DType, kStateKinds> types_of(const StateFormat& f) {
  return {f.weight(), f.weight_extra(), f.first_moment, f.second_moment, f.second_moment_extra()};
}

StateFormat state_format(const Parameter& parameter, const PrecisionConfig& precision) {
  if (parameter.plane == Plane::strategy) return {precision.strategy, precision.first_moment, precision.second_moment};
  const StrategyInfo& info = strategy_info(strategy_of(parameter.plane, precision));
  return {info.id, info.first_moment, info.second_moment};
}

Config config_of(const std::string& checkpoint, const Manifest& manifest) {
  std::vector<std::string> warnings;  // were heard when the run began
  return parse_config(manifest.config, fmt::format("{}/{}: config", checkpoint, kManifestName), {}, warnings);
}

int64_t tokens_of(int64_t samples, int64_t sequence_length) {
  if (samples <= std::numeric_limits<int64_t>::max() / sequence_length) return samples * sequence_length;
  throw Error(fmt::format("a manifest counts {} samples of {} tokens: more than 63 bits hold; it is damaged", samples,
                          sequence_length));
}

int64_t tokens_consumed(const TrainingState& state, const Config& saved) {
  return state.tokens >= 0 ? state.tokens : tokens_of(state.samples, saved.model.sequence_length);
}

std::vector<StateTensor> state_tensors(const std::string& checkpoint, const Manifest& manifest, const Config& config) {
  const StateMap map(checkpoint, manifest);
  const ParameterTable table(config);
  std::vector<StateTensor> tensors;
  std::set<std::string> known;
  for (const Parameter& p : table.parameters()) {
    const std::array<DType, kStateKinds> types = types_of(state_format(p, config.precision));
    for (size_t kind = 0; kind < kStateKinds; ++kind) {
      if (types[kind] == DType::none) continue;
      StateTensor tensor;
      tensor.range = {.state = kStateNames[kind], .parameter = p.name, .begin = 0, .end = p.elements()};
      tensor.type = types[kind];
      tensor.shape = {p.rows};
      if (p.columns != 1) tensor.shape.push_back(p.columns);
      map.demand(tensor.range.tensor(), p.elements());
      known.insert(tensor.range.tensor());
      tensors.push_back(tensor);
    }
  }
  for (const std::string& tensor : map.tensors()) {
    if (known.count(tensor) > 0) continue;
    throw Error(fmt::format("{}/{}: {} belongs to no parameter of its config", checkpoint, kManifestName, tensor));
  }
  return tensors;
}

void verify_checkpoint(const std::string& checkpoint, const Manifest& manifest, ReadFrom from) {
  const std::vector<StateTensor> tensors = state_tensors(checkpoint, manifest, config_of(checkpoint, manifest));
  verify_shards(checkpoint, manifest, from);
  StateMap map(checkpoint, manifest);
  for (const StateTensor& tensor : tensors) {  // for its checks: the bytes have been read
    map.read(tensor.range.tensor(), tensor.type, 0, tensor.range.end, [](int64_t, int64_t, const std::byte*) {});
  }
}

}  // namespace dither
