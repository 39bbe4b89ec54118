#include "src/checkpoint/load.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "src/checkpoint/conversion.h"
#include "src/checkpoint/state_map.h"
#include "src/checkpoint/state_tensors.h"  // kinds of state
#include "src/config/study.h"              // differing_keys()

namespace dither {

namespace {

constexpr int64_t kChunkElements = int64_t{1} << 20;  // converted at once

/// Host memory for some elements of a parameter's state.
class HostElements {
 public:
  HostElements(const StateFormat& format, int64_t count) : types_(types_of(format)) {
    for (size_t kind = 0; kind < kStateKinds; ++kind)
      memory_[kind].resize(static_cast<size_t>(count * size_of(types_[kind])));
  }
  View view(size_t kind) { return types_[kind] == DType::none ? View() : View{memory_[kind].data(), types_[kind]}; }
  StateElements elements() { return {view(0), view(1), view(2), view(3), view(4)}; }

 private:
  std::array<DType, kStateKinds> types_;
  std::array<std::vector<std::byte>, kStateKinds> memory_;
};

/// Keys of the model that may change under the same weights: the length of sequences, how positions are rotated, and
/// what counts before the first step alone.
bool decides_model(const std::string& key) {
  const auto begins = [&key](const char* start) { return key.rfind(start, 0) == 0; };
  return begins("model.") && !begins("model.rotary_") && key != "model.sequence_length" && key != "model.preset" &&
         key != "model.init_std";
}

/// What a part's arrays are, by kind; absent where the strategy has none.
using PartViews = std::array<View, kStateKinds>;

class Loader {
 public:
  Loader(const std::string& checkpoint, const Manifest& manifest, const Config& saved, const Config& config,
         const ParameterTable& table, Backend& backend, Stream stream)
      : checkpoint_(checkpoint),
        map_(checkpoint, manifest),
        saved_(saved),
        config_(config),
        saved_table_(saved),
        table_(table),
        backend_(backend),
        stream_(stream) {}

  /// Throws unless the checkpoint has the state of its own model, all of it and nothing else, and that is this model.
  void check(const Manifest& manifest) const {
    state_tensors(checkpoint_, manifest, saved_);
    for (const Parameter& p : table_.parameters()) {
      const Parameter& there = saved_parameter(p);
      // The first positions of a longer sequence are those of a shorter one.
      const bool fewer_positions = p.role == Role::position_embedding && there.rows > p.rows;
      if ((there.rows == p.rows || fewer_positions) && there.columns == p.columns) continue;
      throw Error(
          fmt::format("{}: {} has shape [{},{}] there, this model needs [{},{}]: it is another model's checkpoint",
                      checkpoint_, p.name, there.rows, there.columns, p.rows, p.columns));
    }
    if (saved_table_.parameters().size() != table_.parameters().size()) {
      throw Error(fmt::format("{}: it has {} parameters, this model {}: it is another model's checkpoint", checkpoint_,
                              saved_table_.parameters().size(), table_.parameters().size()));
    }
    for (const DifferingKey& key : differing_keys({saved_, config_})) {  // tensors of the same shapes by chance
      if (!decides_model(key.path)) continue;
      throw Error(
          fmt::format("{}: {} is {} there, {} here: it is another model's checkpoint\n       cure: the same model",
                      checkpoint_, key.path, key.values[0], key.values[1]));
    }
  }

  void load(const Segment& segment, const PartViews& views) {
    const Parameter& p = table_.by_id(segment.tensor);
    const StateFormat from = state_format(saved_parameter(p), saved_.precision),
                      to = state_format(p, config_.precision);
    if (from == to) return copy(segment, p, views);
    for (int64_t done = 0; done < segment.count; done += kChunkElements) {
      convert(p, from, to, segment.first + done, std::min(kChunkElements, segment.count - done), views,
              segment.offset + done);
    }
  }

 private:
  const Parameter& saved_parameter(const Parameter& p) const {
    for (const Parameter& other : saved_table_.parameters()) {
      if (other.name == p.name) return other;
    }
    throw Error(fmt::format("{}: it has no parameter {}: it is another model's checkpoint", checkpoint_, p.name));
  }

  void copy(const Segment& segment, const Parameter& p, const PartViews& views) {
    for (size_t kind = 0; kind < kStateKinds; ++kind) {
      const View view = views[kind];
      if (!view) continue;
      map_.read(kStateNames[kind] + ("/" + p.name), view.type, segment.first, segment.first + segment.count,
                [&](int64_t first, int64_t count, const std::byte* data) {
                  backend_.copy_from_host(view.at(segment.offset + first - segment.first).data, data,
                                          count * size_of(view.type), stream_);
                });
    }
  }

  void convert(const Parameter& p, const StateFormat& from, const StateFormat& to, int64_t begin, int64_t count,
               const PartViews& views, int64_t offset) {
    HostElements source(from, count), target(to, count);
    for (size_t kind = 0; kind < kStateKinds; ++kind) {
      const View view = source.view(kind);
      if (!view) continue;
      map_.read(kStateNames[kind] + ("/" + p.name), view.type, begin, begin + count,
                [&](int64_t first, int64_t n, const std::byte* data) {
                  std::memcpy(view.at(first - begin).data, data, static_cast<size_t>(n * size_of(view.type)));
                });
    }
    convert_state(from, source.elements(), to, target.elements(), count);
    for (size_t kind = 0; kind < kStateKinds; ++kind) {
      const View view = target.view(kind);
      if (view) backend_.copy_from_host(views[kind].at(offset).data, view.data, count * size_of(view.type), stream_);
    }
    backend_.synchronize(stream_);
  }

  const std::string& checkpoint_;
  StateMap map_;
  const Config &saved_, &config_;
  const ParameterTable saved_table_;
  const ParameterTable& table_;
  Backend& backend_;
  Stream stream_;
};

}  // namespace

void load_state(const std::string& checkpoint, const Manifest& manifest, const Config& saved, const Config& config,
                const ParameterTable& table, Optimizer& optimizer, Backend& backend, Stream stream,
                const std::function<void()>& progress) {
  Loader loader(checkpoint, manifest, saved, config, table, backend, stream);
  loader.check(manifest);
  std::vector<const OwnedPart*> parts;
  std::vector<PartViews> views;
  for (const StateArray& array : optimizer.state()) {  // by part
    if (parts.empty() || parts.back() != array.part) {
      parts.push_back(array.part);
      views.emplace_back();
    }
    const auto kind = std::find(kStateNames.begin(), kStateNames.end(), std::string(array.name)) - kStateNames.begin();
    views.back().at(static_cast<size_t>(kind)) = array.view;
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    for (const Segment& segment : parts[i]->segments) {
      loader.load(segment, views[i]);
      if (progress) progress();
    }
  }
  backend.synchronize(stream);
}

}  // namespace dither
