// A short training run on any number of ranks, and what it left, addressed by tensor: so that what one rank alone
// computed can be compared with what each of several holds.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "src/training/evaluation.h"
#include "src/training/trainer.h"
#include "tests/ranks/job.h"
#include "tests/training/tiny_run.h"

namespace dither {

/// What was logged at a step, all of which must be the same to the bit under `ordered`.
struct LoggedStep {
  double loss, gradient_norm, clip_factor, edq, edq_full, imprecision, update_to_ulp;
};

struct Reference {
  std::vector<LoggedStep> steps;
  double validation_loss = 0;
  /// "first_moment 770": the bytes of that state of the whole tensor with this id.
  std::map<std::string, std::vector<char>> tensors;
};

/// The corpus of these tests, the same for all ranks; rank 0 writes it. All ranks call it, once.
const std::string& corpus();

/// `config` on one rank, computed by rank 0; all ranks get it. All ranks call it.
Reference reference_of(const Config& config, int64_t steps);

/// Trains all ranks for some steps, saves a checkpoint in `folder` and returns its path. All ranks call it.
std::string checkpoint_of(const Config& config, int64_t steps, const std::string& folder);

/// The same config on all ranks, up to this step; from the beginning or from a checkpoint. What is unlike the
/// reference, "" if nothing: losses, norms, measures, every element of every state that this rank owns, all weights
/// that its forward passes see, the validation loss; memory unlike the plan; samples computed twice or not at all. All
/// ranks call it, and all get the complaints of all.
std::string unlike(const Config& config, const Reference& reference, int64_t steps, const std::string& from = "");

/// The same config on all ranks, for sums that are not `ordered`: "" if all ranks see the same weights to the bit,
/// losses are within `bound` of the reference, relatively, and norms within 5 * bound. All ranks call it.
std::string apart(const Config& config, const Reference& reference, int64_t steps, double bound);

}  // namespace dither
