// Reading of a run's folder between two kills.
#include "tests/torture/run_record.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "src/checkpoint/checkpoint_folder.h"
#include "src/checkpoint/safetensors.h"

namespace dither::torture {

namespace fs = std::filesystem;

namespace {

constexpr const char* kMark = "left-behind";

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Names with this end in a folder that others change meanwhile.
std::vector<std::string> names_with(const std::string& folder, const std::string& end, bool marked_too = false) {
  std::vector<std::string> names;
  std::error_code gone;
  for (fs::directory_iterator item(folder, gone), last; !gone && item != last; item.increment(gone)) {
    const std::string name = item->path().filename().string();
    std::error_code unknown;
    if (ends_with(name, end) && (marked_too || !fs::exists(item->path() / kMark, unknown))) names.push_back(name);
  }
  return names;
}

/// JSON writes what is not finite as null.
double number(const nlohmann::json& value) { return value.is_number() ? value.get<double>() : -1.0; }

}  // namespace

Metrics read_metrics(const std::string& path) {
  Metrics metrics;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json event = nlohmann::json::parse(line, nullptr, false);
    if (event.is_discarded()) continue;
    const std::string kind = event.at("event");
    const int64_t step = event.value("step", int64_t{0});
    if (kind == "step") metrics.steps[step] = {number(event.at("loss")), number(event.at("gradient_norm"))};
    if (kind == "resume") {
      metrics.resumed.push_back(step);
      metrics.steps.erase(metrics.steps.upper_bound(step), metrics.steps.end());
    }
    if (kind == "checkpoint") {
      if (event.contains("error")) throw Error(path + ": a checkpoint failed: " + event.at("error").get<std::string>());
      metrics.write_seconds.push_back(event.at("seconds"));
      metrics.newest_reported = std::max(metrics.newest_reported, step);
    }
  }
  return metrics;
}

int64_t newest_verified(const std::string& checkpoints) {
  int64_t newest = 0;
  for (const CheckpointEntry& entry : list_checkpoints(checkpoints)) {
    verify_shards(entry.path, read_manifest(entry.path), ReadFrom::cache);
    newest = entry.step;
  }
  return newest;
}

bool is_inside_write(const std::string& checkpoints) {
  return !names_with(checkpoints, ".partial").empty() || !names_with(checkpoints, ".removed").empty();
}

std::vector<std::string> partial_folders(const std::string& checkpoints) { return names_with(checkpoints, ".partial"); }

bool has_leftovers(const std::string& checkpoints) {
  return !names_with(checkpoints, ".partial", true).empty() || !names_with(checkpoints, ".removed", true).empty();
}

void mark_leftovers(const std::string& checkpoints) {
  for (const char* end : {".partial", ".removed"}) {
    for (const std::string& name : names_with(checkpoints, end)) {
      const std::string path = checkpoints + "/" + name + "/" + kMark;
      if (!std::ofstream(path)) throw Error(path + " cannot be written");
    }
  }
}

void demand_same_weights(const std::string& path, const std::string& reference) {
  const SafetensorsFile found(path), expected(reference);
  if (found.tensors().size() != expected.tensors().size()) throw Error(path + ": another number of tensors");
  for (const SafetensorsTensor& tensor : expected.tensors()) {
    const SafetensorsTensor& other = found.at(tensor.name);
    const bool same = other.type == tensor.type && other.shape == tensor.shape &&
                      std::memcmp(other.data, tensor.data, static_cast<size_t>(tensor.bytes())) == 0;
    if (!same) throw Error(path + ": " + tensor.name + " differs from that of the uninterrupted run, " + reference);
  }
}

}  // namespace dither::torture
