#include "src/checkpoint/state_map.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "src/checkpoint/checkpoint_folder.h"  // kManifestName

namespace dither {

SafetensorsType safetensors_type(DType type) {
  if (type == DType::fp32) return SafetensorsType::f32;
  if (type == DType::bf16) return SafetensorsType::bf16;
  DITHER_ASSERT(type == DType::int16);
  return SafetensorsType::i16;
}

StateMap::File::File(const std::string& path) : file(path) {
  for (const SafetensorsTensor& tensor : file.tensors()) tensors[tensor.name] = &tensor;
}

StateMap::StateMap(std::string checkpoint, const Manifest& manifest)
    : checkpoint_(std::move(checkpoint)), manifest_(manifest), files_(manifest.shards.size()) {
  for (size_t i = 0; i < manifest.shards.size(); ++i) {
    for (const StateRange& range : manifest.shards[i].ranges) {
      places_[range.tensor()].push_back({range.begin, range.end, i});
    }
  }
  for (auto& [tensor, places] : places_) {
    std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) { return a.begin < b.begin; });
  }
}

void StateMap::demand(const std::string& tensor, int64_t elements) const {
  const auto fail = [&](const std::string& what) {
    throw Error(fmt::format("{}/{}: {} {}", checkpoint_, kManifestName, tensor, what));
  };
  const auto found = places_.find(tensor);
  if (found == places_.end()) return fail("is in none of the shards");
  int64_t end = 0;
  for (const Place& place : found->second) {
    if (place.begin > end) fail(fmt::format("lacks the elements from {} to {}", end, place.begin));
    if (place.begin < end) fail(fmt::format("has the elements from {} on more than once", place.begin));
    end = place.end;
  }
  if (end != elements) fail(fmt::format("has {} elements, this model needs {}", end, elements));
}

std::vector<std::string> StateMap::tensors() const {
  std::vector<std::string> names;
  for (const auto& [tensor, places] : places_) names.push_back(tensor);
  return names;
}

void StateMap::read(const std::string& tensor, DType type, int64_t begin, int64_t end, const Body& body) {
  const std::vector<Place>& places = places_.at(tensor);
  for (const Place& place : places) {
    const int64_t first = std::max(begin, place.begin), last = std::min(end, place.end);
    if (first >= last) continue;
    body(first, last - first, data(tensor, type, place) + (first - place.begin) * size_of(type));
  }
}

const std::byte* StateMap::data(const std::string& tensor, DType type, const Place& place) {
  std::unique_ptr<File>& file = files_[place.shard];
  const std::string path = checkpoint_ + "/" + manifest_.shards[place.shard].file;
  if (!file) file = std::make_unique<File>(path);
  const size_t listed = manifest_.shards[place.shard].ranges.size();
  if (file->tensors.size() != listed) {
    throw Error(fmt::format("{}: has {} tensors, {} says {}", path, file->tensors.size(), kManifestName, listed));
  }
  const auto found = file->tensors.find(tensor);
  if (found == file->tensors.end()) {
    throw Error(fmt::format("{}: has no tensor {}, which {} says it has", path, tensor, kManifestName));
  }
  const SafetensorsTensor& stored = *found->second;
  const SafetensorsType needed = safetensors_type(type);
  if (stored.type != needed || stored.elements() != place.end - place.begin) {
    throw Error(fmt::format("{}: {} holds {} elements of {}, needs {} of {}", path, tensor, stored.elements(),
                            name_of(stored.type), place.end - place.begin, name_of(needed)));
  }
  return stored.data;
}

}  // namespace dither
