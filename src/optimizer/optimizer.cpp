#include "src/optimizer/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "base/error.h"

namespace dither {

namespace {

// Sums over ranks take both as plain int64.
static_assert(sizeof(ExactSum) == 7 * sizeof(int64_t) &&
              sizeof(UpdateSums) == 4 * sizeof(ExactSum) + 3 * sizeof(int64_t));

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

Optimizer::Buffers Optimizer::place(const Config& config, const std::vector<OwnedPart>& parts, Arena& arena) {
  Buffers b{};
  for (const OwnedPart& part : parts) {
    const StrategyInfo& s = strategy_info(strategy_of(part.plane, config.precision));
    const bool chosen = part.plane == Plane::strategy;
    auto tensor = [&](DType type) { return type == DType::none ? View() : arena.tensor(part.elements, type); };
    PartBuffers p{};
    p.weight_extra = tensor(s.weight_extra);
    p.first_moment = tensor(chosen ? config.precision.first_moment : s.first_moment);
    p.second_moment = tensor(chosen ? config.precision.second_moment : s.second_moment);
    p.second_moment_extra = tensor(s.second_moment_extra);
    p.segment_count = static_cast<int64_t>(part.segments.size());
    p.segments = arena.array<Segment>(p.segment_count);
    b.parts.push_back(p);
  }
  constexpr int64_t kSums = kParameterGroups * static_cast<int64_t>(sizeof(ExactSum) + sizeof(UpdateSums));
  char* sums = static_cast<char*>(arena.take(kSums));
  b.group_norms = reinterpret_cast<ExactSum*>(sums);
  b.group_sums = reinterpret_cast<UpdateSums*>(sums + kParameterGroups * sizeof(ExactSum));
  return b;
}

void Optimizer::plan(const Config& config, const std::vector<OwnedPart>& parts, MemoryPlan& plan) {
  Arena arena(nullptr);
  place(config, parts, arena);
  plan.optimizer_state += arena.bytes();
}

Optimizer::Optimizer(const Config& config, const ParameterTable& table, const std::vector<OwnedPart>& parts,
                     Backend& backend, StepScalars* scalars, Stream stream)
    : config_(config), table_(table), parts_(parts), backend_(backend), scalars_(scalars), stream_(stream) {
  Arena counted(nullptr);
  place(config, parts, counted);
  memory_ = backend.allocate(counted.bytes());
  Arena arena(memory_);
  b_ = place(config, parts, arena);
  for (size_t i = 0; i < parts.size(); ++i) {
    const PartBuffers& p = b_.parts[i];
    check_segments("the optimizer", parts[i].segments.data(), p.segment_count);
    const int64_t bytes = p.segment_count * static_cast<int64_t>(sizeof(Segment));
    if (p.segment_count > 0) backend.copy_from_host(p.segments, parts[i].segments.data(), bytes, stream);
  }
  backend.synchronize(stream);
}

Optimizer::~Optimizer() { backend_.free(memory_); }

// Padded rows stay the zeros of a fresh allocation.
void Optimizer::initialise() {
  for (size_t i = 0; i < parts_.size(); ++i) {
    const OwnedPart& part = parts_[i];
    const View extra = b_.parts[i].weight_extra;
    for (const Segment& segment : part.segments) {
      const Parameter& p = table_.by_id(segment.tensor);
      const int64_t count = std::min(segment.count, p.counted_elements() - segment.first);
      if (count <= 0) continue;
      backend_.initialise({.weight = part.weight.at(segment.offset),
                           .extra = extra ? extra.at(segment.offset) : View(),
                           .strategy = strategy_of(p.plane, config_.precision),
                           .count = count,
                           .mean = p.init_mean,
                           .std = p.init_std,
                           .tensor = p.id,
                           .seed = config_.seed,
                           .first = segment.first},
                          stream_);
    }
  }
}

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
  for (size_t i = 0; i < parts_.size(); ++i) {
    for (const Segment& segment : parts_[i].segments) {
      if (segment.tensor != parameter.id) continue;
      const int64_t count = std::min(segment.count, parameter.counted_elements() - segment.first);
      if (count <= 0) continue;
      copy_as_stored(w, segment.first, count, parts_[i].weight.at(segment.offset));
      const View extras = b_.parts[i].weight_extra;
      if (extras) copy_as_stored(extra, segment.first, count, extras.at(segment.offset));
    }
  }
}

// Floats that hold values of the view's type, narrowed to it.
void Optimizer::copy_as_stored(const std::vector<float>& values, int64_t begin, int64_t count, View to) {
  const int64_t bytes = count * size_of(to.type);
  std::vector<std::byte> stored(static_cast<size_t>(bytes));
  const View host{stored.data(), to.type};
  for (int64_t i = 0; i < count; ++i) put(host, i, values[static_cast<size_t>(begin + i)]);
  backend_.copy_from_host(to.data, stored.data(), bytes, stream_);
  backend_.synchronize(stream_);
}

void Optimizer::begin_step(const StepScalars& scalars, bool measure) {
  measure_ = measure;
  backend_.copy_from_host(scalars_, &scalars, sizeof(StepScalars), stream_);
  if (!measure) return;
  int64_t count = 0;
  const View sums = measure_sums(count);
  backend_.zero(sums.data, count * size_of(sums.type), stream_);
}

void Optimizer::add_norm() {
  for (size_t i = 0; i < parts_.size(); ++i) {
    if (b_.parts[i].segment_count == 0) continue;  // nothing but padding
    backend_.squared_norm({.gradient = parts_[i].gradient,
                           .segments = b_.parts[i].segments,
                           .segment_count = b_.parts[i].segment_count,
                           .group_sums = measure_ ? b_.group_norms : nullptr,
                           .scalars = scalars_},
                          stream_);
  }
}

void Optimizer::decide() { backend_.decide_step({.scalars = scalars_}, stream_); }

void Optimizer::step(const std::function<void(int64_t part)>& updated) {
  for (size_t i = 0; i < parts_.size(); ++i) {
    const OwnedPart& part = parts_[i];
    const PartBuffers& p = b_.parts[i];
    if (p.segment_count > 0) update(part, p);
    updated(static_cast<int64_t>(i));
  }
}

void Optimizer::update(const OwnedPart& part, const PartBuffers& p) {
  backend_.adamw({.weight = part.weight,
                  .weight_extra = p.weight_extra,
                  .first_moment = p.first_moment,
                  .second_moment = p.second_moment,
                  .second_moment_extra = p.second_moment_extra,
                  .gradient = part.gradient,
                  .segments = p.segments,
                  .segment_count = p.segment_count,
                  .strategy = strategy_of(part.plane, config_.precision),
                  .math = part.plane == Plane::strategy ? config_.precision.math : Math::fp32,
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

View Optimizer::measure_sums(int64_t& count) const {
  count = kParameterGroups * static_cast<int64_t>(sizeof(ExactSum) + sizeof(UpdateSums)) / 8;
  return {b_.group_norms, DType::int64};
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
  for (size_t i = 0; i < parts_.size(); ++i) {
    auto add = [&](const char* name, View view) {
      if (view) list.push_back({name, &parts_[i], view, parts_[i].elements});
    };
    const PartBuffers& p = b_.parts[i];
    add("weight", parts_[i].weight);
    add("weight_extra", p.weight_extra);
    add("first_moment", p.first_moment);
    add("second_moment", p.second_moment);
    add("second_moment_extra", p.second_moment_extra);
  }
  return list;
}

}  // namespace dither
