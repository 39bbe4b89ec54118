// The table of rotary positions (Su et al., arXiv 2104.09864), with the frequency scaling of Llama 3.
#pragma once

#include <vector>

#include "src/config/config.h"

namespace dither {

/// [T,D/2,2]: cos and sin of t * frequency[i], formed in FP64 by the host for every backend, rounded once to FP32.
///   frequency[i] = base^(-2i/D)
/// llama3: wavelengths beyond original_length / low_frequency are stretched by `factor`, those under original_length /
/// high_frequency stay, and those between blend linearly in original_length / wavelength.
std::vector<float> rotary_table(const ModelConfig& model);

}  // namespace dither
