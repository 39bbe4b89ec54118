// A tiny model's state in plain memory of the CPU backend, one thread: a forked child may go on with it.
#include "tests/checkpoint_faults/saved_state.h"

#include <cstring>
#include <random>

#include "base/error.h"
#include "tests/training/tiny_run.h"  // tiny_config()

namespace dither::test {

namespace {

Config smallest_config(int layers) {
  Config config = tiny_config(Strategy::bf16_sr);
  config.model.layers = layers;
  config.model.hidden = 32;
  config.model.heads = 1;
  config.model.ffn = 32;
  return config;
}

}  // namespace

SavedState::SavedState(uint64_t seed, int layers)
    : config_(smallest_config(layers)), table_(config_), backend_(make_cpu_backend(1)) {
  const Stream stream = backend_->stream();
  scalars_ = static_cast<StepScalars*>(backend_->allocate(sizeof(StepScalars)));
  const PlainParameters::Options options{.weight = strategy_info(config_.precision.strategy).weight,
                                         .gradient = config_.precision.gradient,
                                         .micro_batches = 1,
                                         .seed = config_.seed};
  parameters_.emplace(table_, options, *backend_, scalars_, stream);
  optimizer_.emplace(config_, table_, parameters_->owned(), *backend_, scalars_, stream);
  optimizer_->initialise();
  std::mt19937_64 random(seed);
  for (const StateArray& array : optimizer_->state()) {
    auto* elements = static_cast<uint16_t*>(array.view.data);  // any bits will do
    const int64_t halves = array.elements * size_of(array.view.type) / 2;
    for (int64_t i = 0; i < halves; ++i) elements[i] = static_cast<uint16_t>(random());
  }
  for (int64_t copy = 0; copy < 2; ++copy) {
    shards_[copy].emplace(state_pieces(table_, *optimizer_, copy, 2), *backend_, stream);
    shards_[copy]->copy_to_host();
  }
}

SavedState::~SavedState() {
  optimizer_.reset();
  parameters_.reset();
  backend_->free(scalars_);
}

/// Of the tensors: gaps between them are nobody's.
std::vector<std::byte> SavedState::bytes() const {
  std::vector<std::byte> all;
  for (const StatePiece& piece : state_pieces(table_, *optimizer_, 0, 1)) {
    const auto* begin = static_cast<const std::byte*>(piece.view.data);
    all.insert(all.end(), begin, begin + piece.bytes());
  }
  return all;
}

Manifest SavedState::write_shards(FileSystem& files, const std::string& partial, int64_t step) const {
  Manifest manifest;
  manifest.training.step = step;
  manifest.training.samples = 8 * step;
  manifest.config = to_json(config_);
  manifest.commit = "0123456789ab";
  manifest.arithmetic = "test";
  manifest.data = "0123456789abcdef";
  manifest.ranks = 2;
  for (int64_t rank = 0; rank < 2; ++rank) {
    manifest.shards.push_back(shards_[rank]->write(files, partial, shard_name(rank), true));
  }
  return manifest;
}

void SavedState::save(FileSystem& files, const std::string& folder, int64_t step) const {
  NewCheckpoint checkpoint(files, path_in(folder, step));
  try {
    checkpoint.begin(checkpoint_bytes());
    checkpoint.commit(write_shards(files, checkpoint.partial(), step));
  } catch (const Error&) {
    checkpoint.discard();
    throw;
  }
}

void SavedState::load(const std::string& checkpoint) {
  const Manifest manifest = read_manifest(checkpoint);
  std::vector<std::string> warnings;
  const Config saved = parse_config(manifest.config, checkpoint, {}, warnings);
  load_state(checkpoint, manifest, saved, config_, table_, *optimizer_, *backend_, backend_->stream());
}

void verify(const std::string& checkpoint) { verify_shards(checkpoint, read_manifest(checkpoint), ReadFrom::cache); }

std::vector<int64_t> steps_in(const std::string& folder) {
  std::vector<int64_t> steps;
  for (const CheckpointEntry& entry : list_checkpoints(folder)) steps.push_back(entry.step);
  return steps;
}

std::string path_in(const std::string& folder, int64_t step) { return folder + "/" + checkpoint_name(step); }

}  // namespace dither::test
