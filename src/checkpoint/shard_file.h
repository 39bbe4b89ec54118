// A shard being written: the safetensors header first, then the tensors' bytes, and the record that the manifest keeps.
#pragma once

#include <algorithm>  // stable_sort
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/checksum.h"
#include "kernels/numerics/dtype.h"
#include "src/checkpoint/file_system.h"
#include "src/checkpoint/manifest.h"

namespace dither {

/// A tensor as a shard has it: some elements of one parameter's state, or all.
struct ShardTensor {
  StateRange range;
  DType type;
  std::vector<int64_t> shape;
};

/// Pieces of bytes that are worth to be copied, summed and written one by one: they stay in the cache between.
constexpr int64_t kShardPieceBytes = int64_t{8} << 20;

/// Puts tensors with larger elements first, as every shard has them: each is then aligned to its elements. `type_of`
/// gives an item's DType.
template <class Item, class TypeOf>
void order_as_shard(std::vector<Item>& items, const TypeOf& type_of) {
  std::stable_sort(items.begin(), items.end(),
                   [&](const Item& a, const Item& b) { return size_of(type_of(a)) > size_of(type_of(b)); });
}

class ShardFile {
 public:
  /// Creates the file and writes its header. Throws Error, as all of these do.
  ShardFile(FileSystem& files, const std::string& folder, const std::string& name,
            const std::vector<ShardTensor>& tensors);
  /// The tensors' bytes, one behind the other.
  void write(const void* data, int64_t bytes);
  /// When all are written: syncs.
  ShardRecord finish();

 private:
  std::unique_ptr<OutputFile> file_;
  Checksum checksum_;
  ShardRecord record_;
};

}  // namespace dither
