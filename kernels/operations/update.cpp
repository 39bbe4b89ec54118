// What the operations on gradients and weights demand, and the scalars of an AdamW step.
#include "kernels/operations/update.h"

#include <fmt/format.h>

#include <cmath>
#include <string>

#include "base/error.h"
#include "kernels/numerics/strategy.h"
#include "kernels/operations/check.h"

namespace dither {
namespace {

constexpr int64_t kTensorIds = 1 << 24;  // an id has 24 bits of a Philox counter (philox.h)

void demand_absent(const char* operation, const char* what, ConstView view, const StrategyInfo& strategy) {
  if (!view) return;
  throw Error(
      fmt::format("{}: {} is {}, needs none under strategy {}", operation, what, name_of(view.type), strategy.name));
}

/// The view has the type that the strategy stores; where it stores none, the view is absent.
void demand_stored(const char* operation, const char* what, ConstView view, DType stored, const StrategyInfo& s) {
  if (stored == DType::none) {
    demand_absent(operation, what, view, s);
  } else {
    demand_type(operation, what, view, stored);
  }
}

void demand_moment(const char* operation, const char* what, ConstView view, DType stored, const StrategyInfo& s) {
  if (s.free_moments) {
    demand_float(operation, what, view);
  } else {
    demand_type(operation, what, view, stored);
  }
}

void demand_real(bool ok, const char* operation, const char* what, double value, const char* allowed) {
  if (!ok) throw Error(fmt::format("{}: {} is {}, needs {}", operation, what, value, allowed));
}

bool aligned(int64_t element) { return element >= 0 && element % kLeafElements == 0; }
std::string leaf_text() { return fmt::format("a multiple of {}", kLeafElements); }

void demand_list(const char* operation, const Segment* segments, int64_t segment_count) {
  demand(segment_count >= 0, operation, "segment_count", segment_count, "0 or more");
  DITHER_ASSERT(segments != nullptr || segment_count == 0);
}

}  // namespace

void check_segments(const char* operation, const Segment* segments, int64_t segment_count) {
  demand_list(operation, segments, segment_count);
  for (int64_t i = 0; i < segment_count; ++i) {
    const Segment& s = segments[i];
    const auto name = [&](const char* field) { return fmt::format("segments[{}].{}", i, field); };
    if (!aligned(s.offset)) demand(false, operation, name("offset").c_str(), s.offset, leaf_text().c_str());
    if (!aligned(s.first)) demand(false, operation, name("first").c_str(), s.first, leaf_text().c_str());
    if (s.count < 0) demand(false, operation, name("count").c_str(), s.count, "0 or more");
    if (s.tensor >= kTensorIds) demand(false, operation, name("tensor").c_str(), s.tensor, "an id below 2^24");
    if (s.group < 0) demand(false, operation, name("group").c_str(), s.group, "0 or more");
  }
}

void Initialise::check() const {
  const char* name = "initialise";
  const StrategyInfo& info = strategy_info(strategy);
  demand_type(name, "weight", weight, info.weight);
  if (extra) demand_stored(name, "extra", extra, info.weight_extra, info);
  demand(count >= 0, name, "count", count, "0 or more");
  demand_real(std::isfinite(mean), name, "mean", mean, "a finite number");
  demand_real(std::isfinite(std) && std >= 0, name, "std", std, "a finite number of at least 0");
  demand(tensor < kTensorIds, name, "tensor", tensor, "an id below 2^24");
  demand(aligned(first), name, "first", first, leaf_text().c_str());
}

void Accumulate::check() const {
  const char* name = "accumulate";
  demand_float(name, "sum", sum);
  demand_float(name, "addend", addend);
  demand_list(name, segments, segment_count);
  demand(contributions >= 1, name, "contributions", contributions, "at least 1");
  const bool apart = contributions == 1 || (stride > 0 && stride % 8 == 0);  // kernels read eight elements at once
  demand(apart, name, "stride", stride, "a multiple of 8 above 0 for several contributions");
  DITHER_ASSERT(scalars != nullptr && draw != nullptr);
}

void SquaredNorm::check() const {
  const char* name = "squared_norm";
  demand_float(name, "gradient", gradient);
  demand_list(name, segments, segment_count);
  DITHER_ASSERT(scalars != nullptr);
}

void DecideStep::check() const { DITHER_ASSERT(scalars != nullptr); }

void UpdateSums::add(const UpdateSums& other) {
  intended_squared.add(other.intended_squared);
  effective_dot.add(other.effective_dot);
  full_dot.add(other.full_dot);
  weight_squared.add(other.weight_squared);
  unchanged += other.unchanged;
  octaves += other.octaves;
  sized += other.sized;
}

void AdamW::check() const {
  const char* name = "adamw";
  const StrategyInfo& info = strategy_info(strategy);
  demand_stored(name, "weight", weight, info.weight, info);
  demand_stored(name, "weight_extra", weight_extra, info.weight_extra, info);
  demand_moment(name, "first_moment", first_moment, info.first_moment, info);
  demand_moment(name, "second_moment", second_moment, info.second_moment, info);
  demand_stored(name, "second_moment_extra", second_moment_extra, info.second_moment_extra, info);
  demand_float(name, "gradient", gradient);
  demand_list(name, segments, segment_count);
  if (math == Math::bf16 && !all_bf16(info)) {
    throw Error(
        fmt::format("{}: math is bf16, needs fp32 under strategy {}, which keeps FP32 states", name, info.name));
  }
  demand_real(beta1 >= 0 && beta1 < 1, name, "beta1", beta1, "at least 0 and below 1");
  demand_real(beta2 >= 0 && beta2 < 1, name, "beta2", beta2, "at least 0 and below 1");
  demand_real(epsilon > 0 && std::isfinite(epsilon), name, "epsilon", epsilon, "a finite number above 0");
  demand_real(weight_decay >= 0 && std::isfinite(weight_decay), name, "weight_decay", weight_decay,
              "a finite number of at least 0");
  DITHER_ASSERT(scalars != nullptr);
}

}  // namespace dither
