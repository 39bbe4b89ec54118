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
  return m;
}

}  // namespace

Optimizer::Buffers Optimizer::place(const Config& config, const ParameterTable& table, Arena& arena) {
  const StrategyInfo& s = strategy_info(config.precision.strategy);
  const int64_t n = table.flat_elements();
  auto tensor = [&](DType type) { return type == DType::none ? View() : arena.tensor(n, type); };
  Buffers b{};
  b.weight_extra = tensor(s.weight_extra);
  b.first_moment = tensor(s.first_moment);
  b.second_moment = tensor(s.second_moment);
  b.second_moment_extra = tensor(s.second_moment_extra);
  b.segments = arena.array<Segment>(static_cast<int64_t>(table.parameters().size()));
  b.group_norms = arena.array<ExactSum>(kParameterGroups);
  b.group_sums = arena.array<UpdateSums>(kParameterGroups);
  return b;
}

void Optimizer::plan(const Config& config, const ParameterTable& table, MemoryPlan& plan) {
  Arena arena(nullptr);
  place(config, table, arena);
  plan.optimizer_state += arena.bytes();
}

Optimizer::Optimizer(const Config& config, const ParameterTable& table, View weights, ConstView gradients,
                     Backend& backend, StepScalars* scalars, Stream stream)
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
  const std::vector<Segment> segments = table.segments();
  segment_count_ = static_cast<int64_t>(segments.size());
  backend.copy_from_host(b_.segments, segments.data(), segment_count_ * static_cast<int64_t>(sizeof(Segment)), stream);
  backend.synchronize(stream);
}

Optimizer::~Optimizer() { backend_.free(memory_); }

void Optimizer::initialise() {
  for (const Parameter& p : table_.parameters()) {
    backend_.initialise({.weight = weights_.at(p.offset),
                         .extra = b_.weight_extra ? b_.weight_extra.at(p.offset) : View(),
                         .strategy = config_.precision.strategy,
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
  const StrategyInfo& s = strategy_info(config_.precision.strategy);
  const int64_t n = parameter.counted_elements();
  std::vector<Bf16> hi(values.size()), lo(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    hi[i] = round_nearest(values[i]);
    lo[i] = round_nearest(values[i] - to_float(hi[i]));
  }
  const View weight = weights_.at(parameter.offset);
  const void* stored = s.weight == DType::fp32 ? static_cast<const void*>(values.data()) : hi.data();
  backend_.copy_from_host(weight.data, stored, n * size_of(s.weight), stream_);
  if (b_.weight_extra) {
    const void* extra = s.weight_extra == DType::fp32 ? static_cast<const void*>(values.data()) : lo.data();
    backend_.copy_from_host(b_.weight_extra.at(parameter.offset).data, extra, n * size_of(s.weight_extra), stream_);
  }
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
  backend_.squared_norm({.gradient = gradients_,
                         .segments = b_.segments,
                         .segment_count = segment_count_,
                         .group_sums = measure_ ? b_.group_norms : nullptr,
                         .scalars = scalars_},
                        stream_);
  backend_.decide_step({.scalars = scalars_}, stream_);
}

void Optimizer::step() {
  backend_.adamw({.weight = weights_,
                  .weight_extra = b_.weight_extra,
                  .first_moment = b_.first_moment,
                  .second_moment = b_.second_moment,
                  .second_moment_extra = b_.second_moment_extra,
                  .gradient = gradients_,
                  .segments = b_.segments,
                  .segment_count = segment_count_,
                  .strategy = config_.precision.strategy,
                  .math = config_.precision.math,
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
    all.intended_squared.add(sums[g].intended_squared);
    all.effective_dot.add(sums[g].effective_dot);
    all.full_dot.add(sums[g].full_dot);
    all.weight_squared.add(sums[g].weight_squared);
    all.unchanged += sums[g].unchanged;
  }
  result.model = to_measures(all_norms, all, table_.counted_elements());
  return result;
}

std::vector<std::pair<const char*, View>> Optimizer::state() const {
  std::vector<std::pair<const char*, View>> list;
  auto add = [&](const char* name, View view) {
    if (view) list.emplace_back(name, view);
  };
  add("weight", weights_);
  add("weight_extra", b_.weight_extra);
  add("first_moment", b_.first_moment);
  add("second_moment", b_.second_moment);
  add("second_moment_extra", b_.second_moment_extra);
  return list;
}

}  // namespace dither
