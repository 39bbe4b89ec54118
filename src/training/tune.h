// Finding the fastest algorithms for the matrix products of a config on the device at hand.
#pragma once

#include <string>

#include "src/config/config.h"

namespace dither {

/// Runs the products of a training step and of an evaluation on random tokens, each algorithm measured, and returns the
/// table of the fastest as JSON, for the key `algorithms`. Throws Error on the CPU, which has nothing to choose.
std::string tune(const Config& config);

}  // namespace dither
