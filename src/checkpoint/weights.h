// Final weights as one safetensors file under Hugging Face names: what `dither train` leaves and what `dither evaluate`
// and `dither sample` read.
//
// Tensors have the vocabulary's counted rows only and the layout of the architecture's Hugging Face checkpoint: q, k
// and v (gate and up) apart for Llama, linear weights of GPT-2 as [in,out]. Type: that of each stored weight.
// Metadata: "format" ("pt"), "dither_config" (the resolved config as JSON), "dither_step", "dither_tokenizer" (XXH3 of
// the tokenizer beside the training shards; not there where there was none).
#pragma once

#include <cstdint>
#include <string>

#include "kernels/backend.h"
#include "src/checkpoint/file_system.h"
#include "src/config/config.h"
#include "src/model/parameter_access.h"
#include "src/optimizer/optimizer.h"

namespace dither {

/// Writes the weights that forward passes use. Whole or not at all; throws Error when the disk refuses. All ranks call
/// it, since some have only a shard; `path` "" : this one writes nothing. `tokenizer`: its fingerprint, "" if none.
void write_weights(const std::string& path, const Config& config, int64_t step, const ParameterTable& table,
                   ParameterAccess& parameters, Backend& backend, Stream stream, const std::string& tokenizer = "",
                   FileSystem& files = disk());

/// Throws Error unless the file has every tensor of this config's model, in its shape: by the header alone, before
/// memory is taken for the model.
void check_weights(const std::string& path, const Config& config);

/// Sets every parameter from a file written by write_weights() or by Hugging Face (F32 or BF16). Of learned positions a
/// shorter sequence takes the first. Throws Error naming the tensor that is missing, left over, or of another shape or
/// type.
void read_weights(const std::string& path, const ParameterTable& table, Optimizer& optimizer);

/// What a file of write_weights() says of itself.
struct WeightsOrigin {
  std::string config;     // as JSON text
  int64_t step = -1;      // after which they were written; -1: it does not say
  std::string tokenizer;  // fingerprint of the one that the weights were trained with; "" : it does not say
};

/// Throws Error if it carries no config.
WeightsOrigin read_origin(const std::string& path);

/// The config that a file of write_weights() carries. Throws Error if it carries none.
Config read_config(const std::string& path, const std::vector<std::string>& assignments,
                   std::vector<std::string>& warnings);

/// Throws Error that names the first parameter, in the order of the table, with a NaN or an infinity among the weights
/// that forward passes use. `origin` begins the message.
void demand_finite_weights(const std::string& origin, const ParameterTable& table, ParameterAccess& parameters,
                           Backend& backend, Stream stream);

}  // namespace dither
