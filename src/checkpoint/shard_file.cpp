#include "src/checkpoint/shard_file.h"

#include <utility>  // move

#include "src/checkpoint/safetensors.h"
#include "src/checkpoint/state_map.h"  // safetensors_type()

namespace dither {

ShardFile::ShardFile(FileSystem& files, const std::string& folder, const std::string& name,
                     const std::vector<ShardTensor>& tensors) {
  const std::string path = folder + "/" + name;
  record_.file = name;
  std::vector<SafetensorsTensor> listed;
  for (const ShardTensor& tensor : tensors) {
    record_.ranges.push_back(tensor.range);
    listed.push_back(
        {.name = tensor.range.tensor(), .type = safetensors_type(tensor.type), .shape = tensor.shape, .data = nullptr});
  }
  const std::string header = safetensors_header(listed, {{"format", kCheckpointFormat}}, path);
  file_ = files.create(path);
  write(header.data(), static_cast<int64_t>(header.size()));
}

void ShardFile::write(const void* data, int64_t bytes) {
  checksum_.add(data, static_cast<size_t>(bytes));
  file_->write(data, bytes);
  record_.bytes += bytes;
}

ShardRecord ShardFile::finish() {
  file_->sync();
  record_.checksum = checksum_.value();
  return std::move(record_);
}

}  // namespace dither
