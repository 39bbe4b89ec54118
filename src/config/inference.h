// The config of trained weights, for forward passes alone.
#pragma once

#include <string>
#include <vector>

#include "src/config/config.h"

namespace dither {

/// parse_config() of a saved config, with one micro-batch of `sequences` (0: batch.micro_batch_size) as the whole step:
/// the size of the run's steps is no reason to refuse another micro-batch or sequence length. Tells no warnings: they
/// were heard when the run began.
Config parse_inference_config(const std::string& json_text, const std::string& origin,
                              const std::vector<std::string>& assignments, int sequences);

}  // namespace dither
