#include "src/optimizer/optimizer.h"

#include <cmath>
#include <cstddef>

#include "base/error.h"

namespace dither {

namespace {

UpdateMeasures to_measures(const ExactSum& squared_gradient, const UpdateSums& sums, int64_t parameters) {
  const double intended = sums.intended_squared.value();
  UpdateMeasures m;
  m.gradient_norm = std::sqrt(squared_gradient.value());
  m.weight_norm = std::sqrt(sums.weight_squared.value());
  m.update_norm = std::sqrt(intended);
  m.edq = intended > 0 ? sums.effective_dot.value() / intended : 0;
  m.edq_full = intended > 0 ? sums.full_dot.value() / intended : 0;
  m.imprecision = parameters > 0 ? 100.0 * static_cast<double>(sums.unchanged) / static_cast<double>(parameters) : 0;
  if (sums.sized > 0) {
    m.update_to_ulp = std::exp2(static_cast<double>(sums.octaves) / kOctave / static_cast<double>(sums.sized));
  }
  return m;
}

}  // namespace

Optimizer::Buffers Optimizer::place(const Config& config, const ParameterTable& table, Arena& arena) {
  Buffers b{};
  for (const Plane plane : kAllPlanes) {
    const int64_t n = table.flat_elements(plane);
    if (n == 0) continue;
    const StrategyInfo& s = strategy_info(strategy_of(plane, config.precision));
    const bool chosen = plane == Plane::strategy;
    auto tensor = [&](DType type) { return type == DType::none ? View() : arena.tensor(n, type); };
    PlaneBuffers& p = b.planes[static_cast<size_t>(plane)];
    p.weight_extra = tensor(s.weight_extra);
    p.first_moment = tensor(chosen ? config.precision.first_moment : s.first_moment);
    p.second_moment = tensor(chosen ? config.precision.second_moment : s.second_moment);
    p.second_moment_extra = tensor(s.second_moment_extra);
    p.segment_count = static_cast<int64_t>(table.segments(plane).size());
    p.segments = arena.array<Segment>(p.segment_count);
  }
  b.group_norms = arena.array<ExactSum>(kParameterGroups);
  b.group_sums = arena.array<UpdateSums>(kParameterGroups);
  return b;
}

void Optimizer::plan(const Config& config, const ParameterTable& table, MemoryPlan& plan) {
  Arena arena(nullptr);
  place(config, table, arena);
  plan.optimizer_state += arena.bytes();
}

Optimizer::Optimizer(const Config& config, const ParameterTable& table, const FlatArrays& weights,
                     const FlatArrays& gradients, Backend& backend, StepScalars* scalars, Stream stream)
    : config_(config),
      table_(table),
      weights_(weights),
      gradients_(gradients),
      backend_(backend),
      scalars_(scalars),
      stream_(stream) {
  Arena counted(nullptr);
  place(config, table, counted);
  memory_ = backend.allocate(counted.bytes());
  Arena arena(memory_);
  b_ = place(config, table, arena);
  for (const Plane plane : kAllPlanes) {
    const PlaneBuffers& p = b_.planes[static_cast<size_t>(plane)];
    const std::vector<Segment> segments = table.segments(plane);
    check_segments("the optimizer", segments.data(), p.segment_count);
    const int64_t bytes = p.segment_count * static_cast<int64_t>(sizeof(Segment));
    if (p.segment_count > 0) backend.copy_from_host(p.segments, segments.data(), bytes, stream);
    backend.synchronize(stream);
  }
}

Optimizer::~Optimizer() { backend_.free(memory_); }

void Optimizer::initialise() {
  for (const Parameter& p : table_.parameters()) {
    const View extra = b_.planes[static_cast<size_t>(p.plane)].weight_extra;
    backend_.initialise({.weight = weights_.at(p),
                         .extra = extra ? extra.at(p.offset) : View(),
                         .strategy = strategy_of(p.plane, config_.precision),
                         .count = p.counted_elements(),
                         .mean = p.init_mean,
                         .std = p.init_std,
                         .tensor = p.id,
                         .seed = config_.seed},
                        stream_);
  }
}

// Only counted rows are set: padded rows stay the zeros of a fresh allocation.
void Optimizer::set_weights(const Parameter& parameter, const std::vector<float>& values) {
  DITHER_ASSERT(static_cast<int64_t>(values.size()) == parameter.counted_elements());
  const StrategyInfo& s = strategy_info(strategy_of(parameter.plane, config_.precision));
  std::vector<float> w(values.size()), extra(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const float value = values[i];
    const StoredWeight stored = with_weight_rule(s.write, [value](auto rule) { return rule.initial(value); });
    w[i] = stored.w;
    extra[i] = stored.extra;
  }
  copy_as_stored(w, weights_.at(parameter));
  const View extras = b_.planes[static_cast<size_t>(parameter.plane)].weight_extra;
  if (extras) copy_as_stored(extra, extras.at(parameter.offset));
}

// Floats that hold values of the view's type, narrowed to it.
void Optimizer::copy_as_stored(const std::vector<float>& values, View to) {
  const int64_t bytes = static_cast<int64_t>(values.size()) * size_of(to.type);
  std::vector<std::byte> stored(static_cast<size_t>(bytes));
  const View host{stored.data(), to.type};
  for (size_t i = 0; i < values.size(); ++i) put(host, static_cast<int64_t>(i), values[i]);
  backend_.copy_from_host(to.data, stored.data(), bytes, stream_);
  backend_.synchronize(stream_);
}

void Optimizer::begin_step(const StepScalars& scalars, bool measure) {
  measure_ = measure;
  backend_.copy_from_host(scalars_, &scalars, sizeof(StepScalars), stream_);
  if (!measure) return;
  backend_.zero(b_.group_norms, kParameterGroups * sizeof(ExactSum), stream_);
  backend_.zero(b_.group_sums, kParameterGroups * sizeof(UpdateSums), stream_);
}

void Optimizer::clip() {
  for (const Plane plane : kAllPlanes) {
    const PlaneBuffers& p = b_.planes[static_cast<size_t>(plane)];
    if (p.segment_count == 0) continue;
    backend_.squared_norm({.gradient = gradients_.plane(plane),
                           .segments = p.segments,
                           .segment_count = p.segment_count,
                           .group_sums = measure_ ? b_.group_norms : nullptr,
                           .scalars = scalars_},
                          stream_);
  }
  backend_.decide_step({.scalars = scalars_}, stream_);
}

void Optimizer::step() {
  for (const Plane plane : kAllPlanes) {
    const PlaneBuffers& p = b_.planes[static_cast<size_t>(plane)];
    if (p.segment_count == 0) continue;
    backend_.adamw({.weight = weights_.plane(plane),
                    .weight_extra = p.weight_extra,
                    .first_moment = p.first_moment,
                    .second_moment = p.second_moment,
                    .second_moment_extra = p.second_moment_extra,
                    .gradient = gradients_.plane(plane),
                    .segments = p.segments,
                    .segment_count = p.segment_count,
                    .strategy = strategy_of(plane, config_.precision),
                    .math = plane == Plane::strategy ? config_.precision.math : Math::fp32,
                    .first_moment_rounding = config_.precision.first_moment_rounding,
                    .second_moment_rounding = config_.precision.second_moment_rounding,
                    .beta1 = config_.optimizer.betas[0],
                    .beta2 = config_.optimizer.betas[1],
                    .epsilon = config_.optimizer.epsilon,
                    .weight_decay = config_.optimizer.weight_decay,
                    .seed = config_.seed,
                    .scalars = scalars_,
                    .sums = measure_ ? b_.group_sums : nullptr},
                   stream_);
  }
}

StepMeasures Optimizer::measures() {
  std::array<ExactSum, kParameterGroups> norms;
  std::array<UpdateSums, kParameterGroups> sums;
  backend_.copy_to_host(norms.data(), b_.group_norms, sizeof(norms), stream_);
  backend_.copy_to_host(sums.data(), b_.group_sums, sizeof(sums), stream_);
  backend_.synchronize(stream_);
  StepMeasures result;
  ExactSum all_norms;
  UpdateSums all;
  for (size_t g = 0; g < kParameterGroups; ++g) {
    result.groups[g] = to_measures(norms[g], sums[g], table_.counted_elements(static_cast<ParameterGroup>(g)));
    all_norms.add(norms[g]);
    all.add(sums[g]);
  }
  result.model = to_measures(all_norms, all, table_.counted_elements());
  return result;
}

std::vector<StateArray> Optimizer::state() const {
  std::vector<StateArray> list;
  for (const Plane plane : kAllPlanes) {
    auto add = [&](const char* name, View view) {
      if (view) list.push_back({name, plane, view, table_.flat_elements(plane)});
    };
    const PlaneBuffers& p = b_.planes[static_cast<size_t>(plane)];
    add("weight", weights_.plane(plane));
    add("weight_extra", p.weight_extra);
    add("first_moment", p.first_moment);
    add("second_moment", p.second_moment);
    add("second_moment_extra", p.second_moment_extra);
  }
  return list;
}

}  // namespace dither
