// What a checkpoint's own config says that it holds: every tensor of the state with its type and shape, and whether it
// is there.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "src/checkpoint/checkpoint_folder.h"  // ReadFrom
#include "src/checkpoint/conversion.h"         // StateFormat
#include "src/checkpoint/manifest.h"
#include "src/config/config.h"
#include "src/model/parameter_table.h"

namespace dither {

/// The types of the kinds of state (kStateNames); none where the format has no such tensor.
std::array<DType, kStateKinds> types_of(const StateFormat& format);

/// How a run stores a parameter.
StateFormat state_format(const Parameter& parameter, const PrecisionConfig& precision);

/// One tensor of the state, whole.
struct StateTensor {
  StateRange range;            // from 0 to its number of elements
  DType type = DType::none;    // never none in a list
  std::vector<int64_t> shape;  // [rows,columns], or [rows] of a vector

  int64_t bytes() const { return range.end * size_of(type); }
};

/// The config in a manifest; `checkpoint` names it in messages. Throws Error for one that this program does not
/// understand.
Config config_of(const std::string& checkpoint, const Manifest& manifest);

/// samples * sequence_length. Throws Error where that is more than 63 bits count: no run has got there.
int64_t tokens_of(int64_t samples, int64_t sequence_length);

/// Tokens that a run had consumed; of version 1, which did not count them, from samples and the sequence length of
/// `saved`, the config in the manifest.
int64_t tokens_consumed(const TrainingState& state, const Config& saved);

/// All tensors of a run of this config, by parameter in the order of the table, then by kind. Throws Error unless the
/// manifest has each of their elements once, and no others.
std::vector<StateTensor> state_tensors(const std::string& checkpoint, const Manifest& manifest, const Config& config);

/// Reads all of a checkpoint: every file as its manifest says, every tensor as its config says. Throws Error naming the
/// first thing that is wrong.
void verify_checkpoint(const std::string& checkpoint, const Manifest& manifest, ReadFrom from);

}  // namespace dither
