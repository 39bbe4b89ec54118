#include "src/checkpoint/consolidate.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "base/error.h"
#include "src/checkpoint/checkpoint_folder.h"
#include "src/checkpoint/shard_file.h"
#include "src/checkpoint/state_map.h"
#include "src/checkpoint/state_tensors.h"

namespace dither {

namespace {

namespace fs = std::filesystem;

/// Throws unless a checkpoint of this step may be called so.
void check_name(const std::string& output, int64_t step) {
  const std::string name = fs::path(output).filename().string();
  if (name.rfind("step-", 0) == 0 && name != checkpoint_name(step)) {
    throw Error(
        fmt::format("{} is called like a checkpoint of another step: this one is of step {}, needs {} or any "
                    "name without \"step-\"",
                    output, step, checkpoint_name(step)));
  }
}

ShardRecord write_state(const std::string& checkpoint, const Manifest& manifest,
                        const std::vector<StateTensor>& tensors, const std::string& folder, FileSystem& files) {
  StateMap map(checkpoint, manifest);
  std::vector<ShardTensor> whole;
  for (const StateTensor& tensor : tensors) whole.push_back({tensor.range, tensor.type, tensor.shape});
  ShardFile file(files, folder, kConsolidatedName, whole);
  for (const StateTensor& tensor : tensors) {
    map.read(tensor.range.tensor(), tensor.type, 0, tensor.range.end,
             [&](int64_t, int64_t count, const std::byte* data) {
               const int64_t bytes = count * size_of(tensor.type);
               for (int64_t done = 0; done < bytes; done += kShardPieceBytes) {
                 file.write(data + done, std::min(kShardPieceBytes, bytes - done));
               }
             });
  }
  return file.finish();
}

}  // namespace

void refuse_existing(const std::string& output) {
  std::error_code unknown;  // then making it says why
  if (fs::exists(fs::symlink_status(output, unknown))) {
    throw Error(output + " exists already; name another output, or remove it first");
  }
}

Manifest consolidate(const std::string& checkpoint, const std::string& output, FileSystem& files) {
  refuse_existing(output);
  Manifest manifest = read_manifest(checkpoint);
  check_name(output, manifest.training.step);
  verify_checkpoint(checkpoint, manifest, ReadFrom::cache);  // else the new checksum would vouch for damaged bytes
  std::vector<StateTensor> tensors = state_tensors(checkpoint, manifest, config_of(checkpoint, manifest));
  order_as_shard(tensors, [](const StateTensor& tensor) { return tensor.type; });
  int64_t bytes = 0;
  for (const StateTensor& tensor : tensors) bytes += tensor.bytes();

  NewCheckpoint target(files, output);
  target.begin(bytes);
  try {
    manifest.shards = {write_state(checkpoint, manifest, tensors, target.partial(), files)};
    target.commit(manifest);
  } catch (...) {
    target.discard();
    throw;
  }
  return manifest;
}

}  // namespace dither
