// Which file of a checkpoint holds which elements of the state: the manifest's ranges by parameter, and the mapped
// files behind them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/numerics/dtype.h"
#include "src/checkpoint/manifest.h"
#include "src/checkpoint/safetensors.h"

namespace dither {

/// The type in a file of what is stored so.
SafetensorsType safetensors_type(DType type);

class StateMap {
 public:
  /// Opens nothing yet. `manifest` must outlive the map.
  StateMap(std::string checkpoint, const Manifest& manifest);

  /// Throws Error unless the checkpoint has each of the elements [0, elements) of this state of a parameter once, and
  /// no more.
  void demand(const std::string& tensor, int64_t elements) const;
  /// The tensors that the manifest names, "state/parameter", each once.
  std::vector<std::string> tensors() const;

  /// Gives the elements [begin, end) piece by piece, in order: body(first element, count, their bytes at any address).
  /// Throws Error where a file is not what the manifest says.
  using Body = std::function<void(int64_t first, int64_t count, const std::byte* data)>;
  void read(const std::string& tensor, DType type, int64_t begin, int64_t end, const Body& body);

 private:
  struct Place {
    int64_t begin, end;
    size_t shard;
  };
  /// A mapped file, its tensors by name.
  struct File {
    explicit File(const std::string& path);
    SafetensorsFile file;
    std::map<std::string, const SafetensorsTensor*> tensors;
  };
  const std::byte* data(const std::string& tensor, DType type, const Place& place);

  const std::string checkpoint_;
  const Manifest& manifest_;
  std::map<std::string, std::vector<Place>> places_;  // by rising begin
  std::vector<std::unique_ptr<File>> files_;          // by shard; opened when first used
};

}  // namespace dither
