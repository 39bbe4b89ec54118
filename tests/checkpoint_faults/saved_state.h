// A tiny model's state, saved in two shards as two ranks would, and read back.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/checkpoint/checkpoint_folder.h"
#include "src/checkpoint/load.h"
#include "src/checkpoint/shard.h"
#include "src/model/plain_parameters.h"
#include "src/optimizer/optimizer.h"

namespace dither::test {

class SavedState {
 public:
  /// A Llama of one block; `seed` fills weights and moments.
  explicit SavedState(uint64_t seed, int layers = 1);
  ~SavedState();
  SavedState(const SavedState&) = delete;
  SavedState& operator=(const SavedState&) = delete;

  /// All of it, as it lies in memory.
  std::vector<std::byte> bytes() const;
  int64_t checkpoint_bytes() const { return shards_[0]->bytes() + shards_[1]->bytes(); }

  /// As training does it: what fails is discarded and thrown on.
  void save(FileSystem& files, const std::string& folder, int64_t step) const;
  /// The shards alone, into `partial`; what the manifest then says.
  Manifest write_shards(FileSystem& files, const std::string& partial, int64_t step) const;
  void load(const std::string& checkpoint);

 private:
  Config config_;
  ParameterTable table_;
  std::unique_ptr<Backend> backend_;
  StepScalars* scalars_;
  std::optional<PlainParameters> parameters_;
  std::optional<Optimizer> optimizer_;
  std::optional<Shard> shards_[2];
};

/// Manifest and shards are as they should be; throws Error otherwise.
void verify(const std::string& checkpoint);
/// The steps that are listed in a folder.
std::vector<int64_t> steps_in(const std::string& folder);
std::string path_in(const std::string& folder, int64_t step);

}  // namespace dither::test
