// The published model shapes, by name, and what a family of models takes for granted.
#pragma once

#include <string>
#include <vector>

#include "src/config/config.h"  // ModelConfig

namespace dither {

struct ModelPreset {
  std::string name;
  std::string meaning;  // one line for the reference page
  ModelConfig model;    // kv_heads or head_size 0: follows heads, hidden / heads
};

/// What holds for every model of a family unless a preset or a key says otherwise; dimensions stay 0.
ModelConfig family_defaults(Architecture architecture);

/// All presets in the order of the documentation.
const std::vector<ModelPreset>& preset_table();

/// The preset of that name; nullptr if there is none.
const ModelPreset* find_preset(const std::string& name);

}  // namespace dither
