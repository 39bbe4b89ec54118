#include "src/checkpoint/weights.h"

#include <charconv>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "base/error.h"
#include "src/checkpoint/safetensors.h"

namespace dither {

namespace {

constexpr const char *kConfigKey = "dither_config", *kStepKey = "dither_step", *kTokenizerKey = "dither_tokenizer";

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? "," : "") + std::to_string(shape[i]);
  return text + "]";
}

/// Rows and columns of a part in the file, and its shape there: a vector is one-dimensional.
std::vector<int64_t> shape_of(const Parameter& p, const HuggingFacePart& part) {
  if (p.columns == 1) return {part.rows};
  if (part.transposed) return {p.columns, part.rows};
  return {part.rows, p.columns};
}

/// to[j,i] = from[i,j], elements of `size` bytes.
void transpose(std::byte* to, const std::byte* from, int64_t rows, int64_t columns, int64_t size) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j)
      std::memcpy(to + (j * rows + i) * size, from + (i * columns + j) * size, size);
  }
}

float element(const SafetensorsTensor& tensor, int64_t i) {
  if (tensor.type == SafetensorsType::f32) {
    float value;
    std::memcpy(&value, tensor.data + 4 * i, 4);
    return value;
  }
  Bf16 value;
  std::memcpy(&value, tensor.data + 2 * i, 2);
  return to_float(value);
}

/// The tensor of one part of a parameter. Throws Error unless it has the shape and a type that the parameter needs.
const SafetensorsTensor& tensor_of(const SafetensorsFile& file, const std::string& path, const Parameter& p,
                                   const HuggingFacePart& part) {
  const SafetensorsTensor& tensor = file.at(part.name);
  const std::vector<int64_t> shape = shape_of(p, part);
  const bool more_positions = p.role == Role::position_embedding && tensor.shape.size() == 2 &&
                              tensor.shape[0] > part.rows && tensor.shape[1] == p.columns;
  if (tensor.shape != shape && !more_positions) {
    throw Error(path + ": " + part.name + " has shape " + shape_text(tensor.shape) + ", this model needs " +
                shape_text(shape));
  }
  if (tensor.type != SafetensorsType::f32 && tensor.type != SafetensorsType::bf16) {
    throw Error(path + ": " + part.name + " is " + name_of(tensor.type) + ", needs F32 or BF16");
  }
  return tensor;
}

/// Copies one part of a parameter from the file into its rows [first_row, first_row + part.rows) of `values`.
void read_part(const SafetensorsFile& file, const std::string& path, const Parameter& p, const HuggingFacePart& part,
               int64_t first_row, std::vector<float>& values) {
  const SafetensorsTensor& tensor = tensor_of(file, path, p, part);
  for (int64_t row = 0; row < part.rows; ++row) {
    for (int64_t column = 0; column < p.columns; ++column) {
      const int64_t source = part.transposed ? column * part.rows + row : row * p.columns + column;
      values[static_cast<size_t>((first_row + row) * p.columns + column)] = element(tensor, source);
    }
  }
}

SafetensorsType file_type(ConstView stored) {
  return stored.type == DType::fp32 ? SafetensorsType::f32 : SafetensorsType::bf16;
}

/// Tensors on their way into a file, and the memory they lie in.
struct HostTensors {
  std::vector<std::vector<std::byte>> memory;
  std::vector<SafetensorsTensor> tensors;
};

/// Copies a parameter's parts to host memory, in the layout that the file has.
void fetch(const Parameter& p, ConstView stored, Backend& backend, Stream stream, HostTensors& host) {
  const SafetensorsType type = file_type(stored);
  const int64_t size = size_of(stored.type);
  int64_t row = 0;
  for (const HuggingFacePart& part : p.parts) {
    const int64_t bytes = part.rows * p.columns * size;
    std::vector<std::byte> rows(static_cast<size_t>(bytes));
    backend.copy_to_host(rows.data(), stored.at(row * p.columns).data, bytes, stream);
    backend.synchronize(stream);
    if (part.transposed) {
      std::vector<std::byte> turned(rows.size());
      transpose(turned.data(), rows.data(), part.rows, p.columns, size);
      rows.swap(turned);
    }
    host.memory.push_back(std::move(rows));
    host.tensors.push_back(
        {.name = part.name, .type = type, .shape = shape_of(p, part), .data = host.memory.back().data()});
    row += part.rows;
  }
}

}  // namespace

void write_weights(const std::string& path, const Config& config, int64_t step, const ParameterTable& table,
                   ParameterAccess& parameters, Backend& backend, Stream stream, const std::string& tokenizer,
                   FileSystem& files) {
  HostTensors host;
  for (int bucket = 0; bucket < static_cast<int>(table.buckets().size()); ++bucket) {
    const BucketViews& views = parameters.before_forward(bucket);
    for (const Parameter& p : table.parameters()) {
      if (p.bucket == bucket && !path.empty()) fetch(p, views.weight(p.role), backend, stream, host);
    }
    parameters.release(bucket);
  }
  if (path.empty()) return;
  std::map<std::string, std::string> metadata = {
      {"format", "pt"}, {kConfigKey, to_json(config)}, {kStepKey, std::to_string(step)}};
  if (!tokenizer.empty()) metadata[kTokenizerKey] = tokenizer;
  write_safetensors(path, host.tensors, metadata, files);
}

void check_weights(const std::string& path, const Config& config) {
  const SafetensorsFile file(path);
  const ParameterTable table(config);
  for (const Parameter& p : table.parameters()) {
    for (const HuggingFacePart& part : p.parts) tensor_of(file, path, p, part);
  }
}

void read_weights(const std::string& path, const ParameterTable& table, Optimizer& optimizer) {
  const SafetensorsFile file(path);
  std::set<std::string> known;
  for (const Parameter& p : table.parameters()) {
    std::vector<float> values(static_cast<size_t>(p.counted_elements()));
    int64_t row = 0;
    for (const HuggingFacePart& part : p.parts) {
      read_part(file, path, p, part, row, values);
      known.insert(part.name);
      row += part.rows;
    }
    DITHER_ASSERT(row == p.counted_rows);
    optimizer.set_weights(p, values);
  }
  for (const SafetensorsTensor& tensor : file.tensors()) {
    if (known.count(tensor.name) == 0) {
      throw Error(path + ": " + tensor.name + " belongs to no parameter of this model; is it another architecture?");
    }
  }
}

WeightsOrigin read_origin(const std::string& path) {
  const SafetensorsFile file(path);
  const auto config = file.metadata().find(kConfigKey), step = file.metadata().find(kStepKey);
  if (config == file.metadata().end()) {
    throw Error(path + ": no \"" + kConfigKey + "\" in its metadata: it was not written by dither train");
  }
  const auto tokenizer = file.metadata().find(kTokenizerKey);
  WeightsOrigin origin{config->second, -1, tokenizer == file.metadata().end() ? "" : tokenizer->second};
  if (step == file.metadata().end()) return origin;
  const std::string& digits = step->second;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), origin.step);
  if (error != std::errc() || end != digits.data() + digits.size() || origin.step < 0) {
    throw Error(path + ": \"" + kStepKey + "\" in its metadata is no step: the file is damaged");
  }
  return origin;
}

Config read_config(const std::string& path, const std::vector<std::string>& assignments,
                   std::vector<std::string>& warnings) {
  return parse_config(read_origin(path).config, path, assignments, warnings);
}

void demand_finite_weights(const std::string& origin, const ParameterTable& table, ParameterAccess& parameters,
                           Backend& backend, Stream stream) {
  for (int bucket = 0; bucket < static_cast<int>(table.buckets().size()); ++bucket) {
    const BucketViews& views = parameters.before_forward(bucket);
    for (const Parameter& p : table.parameters()) {
      if (p.bucket != bucket) continue;
      const ConstView stored = views.weight(p.role);
      const int64_t count = p.counted_elements();
      std::vector<std::byte> bytes(static_cast<size_t>(count * size_of(stored.type)));
      backend.copy_to_host(bytes.data(), stored.data, static_cast<int64_t>(bytes.size()), stream);
      backend.synchronize(stream);
      const SafetensorsTensor host{.name = p.name, .type = file_type(stored), .shape = {count}, .data = bytes.data()};
      for (int64_t i = 0; i < count; ++i) {
        const float value = element(host, i);
        if (std::isfinite(value)) continue;
        throw Error(origin + ": " + p.parts.front().name + " holds " + (std::isnan(value) ? "NaN" : "an infinity") +
                    " (row " + std::to_string(i / p.columns) + " of " + p.name +
                    "): the run has diverged or the file was damaged\n       cures: an earlier checkpoint");
      }
    }
    parameters.release(bucket);
  }
}

}  // namespace dither
