// manifest.json of a checkpoint: everything but the tensors, and where the tensors are. docs/checkpoint-format.md is
// its specification, down to bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dither {

constexpr const char* kCheckpointFormat = "dither checkpoint";  // in a manifest, and in the metadata of its shards
constexpr int64_t kCheckpointVersion = 2;

/// The kinds of a parameter's state, as manifests, shards and Optimizer::state() name them.
constexpr size_t kStateKinds = 5;
constexpr std::array<const char*, kStateKinds> kStateNames = {"weight", "weight_extra", "first_moment", "second_moment",
                                                              "second_moment_extra"};

/// What a run knows beside its tensors. Learning rate, bias corrections, random draws and samples all follow from
/// `step` and `samples`: there is no state of a random generator.
struct TrainingState {
  int64_t step = 0;              // done
  int64_t samples = 0;           // the next step begins with this one, of the config's sequence length
  int64_t tokens = -1;           // consumed by all ranks, whatever their sequence lengths; -1: of version 1, unknown
  std::vector<double> losses;    // } the guards' windows, oldest first
  std::vector<double> norms;     // }
  int64_t skipped_steps = 0;     // of the whole run
  int64_t skipped_in_a_row = 0;  // up to `step`
};

/// Elements [begin, end) of one parameter's state, in the order of its whole tensor [rows, columns].
struct StateRange {
  std::string state;      // one of kStateNames
  std::string parameter;  // "blocks.3.attention.qkv.weight"
  int64_t begin = 0, end = 0;

  /// Its tensor's name in the file: "first_moment/blocks.3.attention.qkv.weight".
  std::string tensor() const { return state + "/" + parameter; }
};

/// One safetensors file of the checkpoint.
struct ShardRecord {
  std::string file;  // without folder
  int64_t bytes = 0;
  uint64_t checksum = 0;  // XXH3-64 of the whole file
  std::vector<StateRange> ranges;
};

struct Manifest {
  TrainingState training;
  std::string config;      // of the run, resolved, as JSON text
  std::string commit;      // of the program
  std::string arithmetic;  // Backend::arithmetic()
  std::string algorithms;  // table of the matrix products' algorithms, as JSON text; "": none
  std::string data;        // by what the training data is known, see DataIdentity
  int64_t ranks = 1;       // that wrote it
  std::vector<ShardRecord> shards;
};

/// By what a checkpoint knows its training data: XXH3 of the shards' fingerprint and, where there is one, that of the
/// tokenizer behind a space.
struct DataIdentity {
  std::string shards, tokenizer;  // "": no tokenizer, or an old checkpoint, which does not say
};
std::string to_text(const DataIdentity& identity);
DataIdentity parse_data_identity(const std::string& data);

/// A shard's record as JSON, for the way between ranks.
std::string to_text(const ShardRecord& shard);
ShardRecord parse_shard_record(const std::string& text);

/// The file's text, with its own checksum at the end.
std::string to_text(const Manifest& manifest);

/// Throws Error naming `origin` and what is wrong: damaged (its checksum), another format or a version that this
/// program does not know, keys missing, unknown or of another type, numbers out of range, names that leave the folder.
Manifest parse_manifest(std::string_view text, const std::string& origin);

}  // namespace dither
