// One rank's share of a checkpoint: which elements of the state it is, their copy in host memory, and their file.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "src/checkpoint/file_system.h"
#include "src/checkpoint/manifest.h"
#include "src/optimizer/optimizer.h"

namespace dither {

/// Elements [begin, end) of one parameter's state, as they lie in backend memory.
struct StatePiece {
  const char* state;
  const Parameter* parameter;
  int64_t begin, end;
  ConstView view;

  int64_t bytes() const { return (end - begin) * size_of(view.type); }
};

/// What this rank writes. Where `copies` ranks own the same elements, each writes its part of them. `optimizer` and
/// `table` must outlive the pieces.
std::vector<StatePiece> state_pieces(const ParameterTable& table, const Optimizer& optimizer, int64_t copy,
                                     int64_t copies);

class Shard {
 public:
  Shard(std::vector<StatePiece> pieces, Backend& backend, Stream stream);

  int64_t bytes() const { return bytes_; }  // of its elements

  /// Takes the memory for the copy, in all its pages: for the first time that takes the system longer than to copy.
  /// From any thread; throws std::bad_alloc.
  void reserve();
  /// Copies the elements to host memory, which stays for the next time. Waits for the backend.
  void copy_to_host();

  /// Writes `folder`/`file`, synced. From the host copy if `from_copy`, and then from any thread; else from backend
  /// memory, in chunks. `progress` is called now and then. Throws Error.
  ShardRecord write(FileSystem& files, const std::string& folder, const std::string& file, bool from_copy,
                    const std::function<void()>& progress = {}) const;

 private:
  std::vector<StatePiece> pieces_;  // as the file has them: larger types first
  Backend& backend_;
  Stream stream_;
  int64_t bytes_ = 0;
  std::unique_ptr<std::byte[]> copy_;
};

}  // namespace dither
