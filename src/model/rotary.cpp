#include "src/model/rotary.h"

#include <cmath>
#include <numbers>

namespace dither {

namespace {

double scaled(const ModelConfig& model, double frequency) {
  if (model.rotary_scaling == RotaryScaling::none) return frequency;
  const double turns = model.rotary_original_length * frequency / (2 * std::numbers::pi);  // within the old context
  if (turns > model.rotary_high_frequency) return frequency;
  if (turns < model.rotary_low_frequency) return frequency / model.rotary_factor;
  const double kept = (turns - model.rotary_low_frequency) / (model.rotary_high_frequency - model.rotary_low_frequency);
  return (1 - kept) * frequency / model.rotary_factor + kept * frequency;
}

}  // namespace

std::vector<float> rotary_table(const ModelConfig& model) {
  const int half = model.head_size / 2;
  std::vector<float> table;
  table.reserve(static_cast<size_t>(model.sequence_length) * static_cast<size_t>(half) * 2);
  for (int t = 0; t < model.sequence_length; ++t) {
    for (int i = 0; i < half; ++i) {
      const double frequency = scaled(model, std::pow(model.rotary_base, -2.0 * i / model.head_size));
      table.push_back(static_cast<float>(std::cos(t * frequency)));
      table.push_back(static_cast<float>(std::sin(t * frequency)));
    }
  }
  return table;
}

}  // namespace dither
