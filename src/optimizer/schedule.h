// The learning rate as a function of the step.
#pragma once

#include <cstdint>

#include "src/config/config.h"

namespace dither {

/// Learning rate of step 1 .. steps. The schedule begins after start_step, 0 but for runs that resume with a new one:
/// below, "step" and "all steps" count from there, and up to there the rate is 0. Warm-up is linear, lr * step /
/// warmup_steps; after it, with p the share of the remaining steps that is done (1 at the last step) and f =
/// final_fraction:
///   constant  lr
///   linear    lr * (1 - (1-f) p)
///   cosine    lr * (f + (1-f) (1 + cos(pi p)) / 2)
///   wsd       lr, then over the last decay_fraction of all steps (warm-up, stable, decay), with q the share of them
///             that is done: linear  lr * (1 - (1-f) q)     1-sqrt  lr * (1 - (1-f) sqrt(q)), Haegele et al.,
///             arXiv 2405.18392
double learning_rate_at(const OptimizerConfig& optimizer, int64_t steps, int64_t step);

}  // namespace dither
