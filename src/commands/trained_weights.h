// The weights that `dither evaluate` and `dither sample` mean: a file, a checkpoint, or the newest of a run's folder.
//
// A run writes weights.safetensors when it ends or is stopped. One that went on and was killed then has newer weights
// in its checkpoints alone, so those of a run's folder are its newest good checkpoint where that is of a later step
// than the file. A checkpoint is read in place, by element range.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/checkpoint/manifest.h"
#include "src/config/config.h"
#include "src/data/tokenizer.h"
#include "src/training/engine.h"

namespace dither {

constexpr const char* kWeightsMeaning = "A run's folder, its weights.safetensors, or a checkpoint's folder";

struct TrainedWeights {
  std::string path;                  // of the file or the checkpoint's folder
  int64_t step = -1;                 // after which they were taken; -1: the file does not say
  int64_t steps = 0;                 // of the whole run
  std::string config;                // of the run, as JSON text
  std::string tokenizer;             // fingerprint of the one that it trained with; "" : it does not say
  std::optional<Manifest> manifest;  // of a checkpoint
  std::vector<std::string> passed;   // what is newer and damaged, one sentence each

  /// "runs/a/checkpoints/step-00000040, step 40 of 100".
  std::string description() const;
};

/// What a path means: a weights file as it is, a checkpoint's folder, or a run's. A checkpoint is verified. Throws
/// Error where there is nothing, where a file or checkpoint that is named is damaged, and where a run has nothing good.
TrainedWeights find_weights(const std::string& path);

/// Prints what was passed over, as warnings on standard error.
void warn_of_passed(const TrainedWeights& weights);

/// The run's config with assignments over it, for forward passes alone: no demands on a training step, no warnings.
/// One micro-batch of `sequences` (0: as in training) and no accumulation. Throws Error where a file does not have the
/// tensors of that model: before memory is taken for it.
Config config_for_inference(const TrainedWeights& weights, const std::vector<std::string>& assignments, int sequences);

/// Throws Error where the weights say that they were trained with another tokenizer.
void check_tokenizer(const TrainedWeights& weights, const Tokenizer& tokenizer);

/// Sets the weights of an engine that was made for such a config. Throws Error for weights of another model, and for
/// weights that are not finite.
void load_weights(const TrainedWeights& weights, Engine& engine);

}  // namespace dither
