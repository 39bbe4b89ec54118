// The model against transformers: loss, logits and every gradient of four tiny models (tests/fixtures/README.md).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>

#include "kernels/backend.h"
#include "src/checkpoint/safetensors.h"
#include "src/config/config.h"
#include "src/model/model.h"
#include "src/model/plain_parameters.h"
#include "tests/catch.h"
#include "tests/kernels/test_backend.h"

using namespace dither;

namespace {

const char* const kFixtures[] = {"gpt2", "llama", "llama_grouped", "qwen2"};

// FP32, relative, of the norm: plain FP32 transformers is within 2e-7 (loss), 5e-7 (logits), 1.3e-6 (gradients) of the
// FP64 reference; of the small faults at the end of this file the least visible is at 4e-4.
constexpr double kLossFp32 = 1e-5;
constexpr double kGradientFp32 = 1e-4;
// BF16: transformers run in BF16 reaches 7e-4 (loss), 2.6 % (norm) and a cosine of 0.9997.
constexpr double kLossBf16 = 5e-3;
constexpr double kGradientBf16 = 0.05;
constexpr double kCosineBf16 = 0.995;
// A gradient that is zero by symmetry, against the largest of its tensor: a sum of about 2,000 terms of that size,
// whose FP32 roundings (2^-24 each) drift like a random walk to 3e-6.
constexpr double kZeroFp32 = 1e-5;

template <class T>
std::vector<T> elements_of(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsTensor& tensor = file.at(name);
  REQUIRE(size_of(tensor.type) == int64_t{sizeof(T)});
  std::vector<T> result(static_cast<size_t>(tensor.elements()));
  std::memcpy(result.data(), tensor.data, result.size() * sizeof(T));
  return result;
}

/// Calls begin(parameter, part) for each Hugging Face tensor, then visit(ours, theirs) for each of its elements: its
/// index in our flat array and in their tensor.
template <class Begin, class Visit>
void for_each_element(const ParameterTable& table, Begin begin, Visit visit) {
  for (const Parameter& p : table.parameters()) {
    int64_t first = 0;
    for (const HuggingFacePart& part : p.parts) {
      begin(p, part);
      for (int64_t row = 0; row < part.rows; ++row) {
        for (int64_t column = 0; column < p.columns; ++column) {
          const int64_t theirs = part.transposed ? column * part.rows + row : row * p.columns + column;
          visit(static_cast<size_t>(p.offset + (first + row) * p.columns + column), static_cast<size_t>(theirs));
        }
      }
      first += part.rows;
    }
    REQUIRE(first == p.counted_rows);
  }
}

std::vector<int64_t> shape_of(const Parameter& p, const HuggingFacePart& part) {
  const bool vector = p.columns == 1;
  if (vector) return {part.rows};
  if (part.transposed) return {p.columns, part.rows};
  return {part.rows, p.columns};
}

struct Run {
  double loss = 0;
  std::vector<float> logits;     // [P,V] at the positions of the fixture
  std::vector<float> gradients;  // flat, as the table lays them out
};

Config config_of(const SafetensorsFile& file, const std::string& strategy, const std::vector<std::string>& changes) {
  std::vector<std::string> warnings;
  const std::string text =
      R"({"name": "parity", "steps": 1, "data": {"train": "none"}, "batch": {"micro_batch_size": 2},)"
      R"( "precision": {"strategy": ")" +
      strategy + R"("}, "model": )" + file.metadata().at("config") + "}";
  return parse_config(text, "the fixture's config", changes, warnings);
}

void set_weights(const SafetensorsFile& file, const ParameterTable& table, PlainParameters& parameters,
                 Backend& backend) {
  std::vector<float> flat(static_cast<size_t>(table.flat_elements(Plane::strategy)));
  std::vector<uint16_t> stored;
  for_each_element(
      table,
      [&](const Parameter& p, const HuggingFacePart& part) {
        INFO(part.name);
        REQUIRE(file.at(part.name).shape == shape_of(p, part));
        stored = elements_of<uint16_t>(file, part.name);
      },
      [&](size_t ours, size_t theirs) { flat[ours] = to_float(Bf16{stored[theirs]}); });
  const size_t bytes = flat.size() * sizeof(float);
  const View host = {backend.allocate(static_cast<int64_t>(bytes)), DType::fp32};
  backend.copy_from_host(host.data, flat.data(), static_cast<int64_t>(bytes), {});
  backend.copy(parameters.weights().plane(Plane::strategy), host, table.flat_elements(Plane::strategy),
               {});  // exact: the fixture's weights are BF16
  backend.synchronize({});
  backend.free(host.data);
}

/// One micro-batch, forward and backward. `changes` are assignments as --set takes them.
Run run(const SafetensorsFile& file, const std::string& strategy, const std::vector<std::string>& changes = {}) {
  const Config config = config_of(file, strategy, changes);
  const ParameterTable table(config);
  const std::unique_ptr<Backend> backend = test_backend(2);
  auto* scalars = static_cast<StepScalars*>(backend->allocate(sizeof(StepScalars)));
  const PlainParameters::Options options = {.weight = strategy_info(config.precision.strategy).weight,
                                            .gradient = config.precision.gradient,
                                            .micro_batches = 1,
                                            .seed = 1};
  Run result;
  {
    PlainParameters parameters(table, options, *backend, scalars, {});
    Model model(config, table, parameters, *backend, scalars, {});
    set_weights(file, table, parameters, *backend);

    const std::vector<int32_t> tokens = elements_of<int32_t>(file, "input_ids"),
                               targets = elements_of<int32_t>(file, "targets");
    double counted = 0;
    for (const int32_t target : targets) counted += target != -1;
    StepScalars host;
    host.step = 1;
    host.loss_scale = static_cast<float>(1 / counted);
    backend->copy_from_host(scalars, &host, sizeof(host), {});
    const std::vector<int64_t>& shape = file.at("input_ids").shape;
    model.load(tokens.data(), targets.data(), shape[0], shape[1]);
    model.forward();
    for (const int32_t position : elements_of<int32_t>(file, "logits_positions")) {
      std::vector<float> row;
      model.logits(position, row);
      result.logits.insert(result.logits.end(), row.begin(), row.end());
    }
    model.backward();

    backend->copy_to_host(&host, scalars, sizeof(host), {});
    result.gradients.resize(static_cast<size_t>(table.flat_elements(Plane::strategy)));
    const int64_t bytes = table.flat_elements(Plane::strategy) * 4;
    const View wide = {backend->allocate(bytes), DType::fp32};
    backend->copy(wide, parameters.gradients().plane(Plane::strategy), table.flat_elements(Plane::strategy), {});
    backend->copy_to_host(result.gradients.data(), wide.data, bytes, {});
    backend->synchronize({});
    backend->free(wide.data);
    result.loss = host.loss_sum.value() / counted;
  }
  backend->free(scalars);
  return result;
}

/// Sums over one tensor, of ours (a) and the reference (b).
struct Comparison {
  double aa = 0, ab = 0, bb = 0, difference = 0;
  double largest = 0;           // of the reference
  double largest_for_zero = 0;  // of ours where the reference is exactly 0

  void add(double a, double b) {
    aa += a * a;
    ab += a * b;
    bb += b * b;
    difference += (a - b) * (a - b);
    largest = std::max(largest, std::abs(b));
    if (b == 0) largest_for_zero = std::max(largest_for_zero, std::abs(a));
  }
  double relative() const { return std::sqrt(difference / bb); }
  double cosine() const { return ab / std::sqrt(aa * bb); }
};

Comparison compare(const std::vector<float>& ours, const std::vector<float>& reference) {
  REQUIRE(ours.size() == reference.size());
  Comparison result;
  for (size_t i = 0; i < ours.size(); ++i) result.add(ours[i], reference[i]);
  return result;
}

/// By Hugging Face name, every gradient of the fixture. Padding of the vocabulary must have gradients exactly 0.
std::map<std::string, Comparison> compare_gradients(const SafetensorsFile& file, const Run& run) {
  const ParameterTable table(config_of(file, "fp32", {}));
  std::map<std::string, Comparison> results;
  std::vector<float> reference;
  Comparison* current = nullptr;
  for_each_element(
      table,
      [&](const Parameter& p, const HuggingFacePart& part) {
        REQUIRE(file.at("grad." + part.name).shape == shape_of(p, part));
        reference = elements_of<float>(file, "grad." + part.name);
        current = &results[part.name];
      },
      [&](size_t ours, size_t theirs) { current->add(run.gradients[ours], reference[theirs]); });
  size_t stored = 0;
  for (const SafetensorsTensor& tensor : file.tensors()) stored += tensor.name.rfind("grad.", 0) == 0;
  REQUIRE(results.size() == stored);
  for (const Parameter& p : table.parameters()) {
    for (int64_t i = p.counted_elements(); i < p.elements(); ++i) {
      REQUIRE(run.gradients[static_cast<size_t>(p.offset + i)] == 0.0f);
    }
  }
  return results;
}

SafetensorsFile fixture(const std::string& name) {
  return SafetensorsFile(std::string(DITHER_SOURCE_DIR) + "/tests/fixtures/" + name + ".safetensors");
}

}  // namespace

// Catches: any error in a formula of forward or backward, in the order of heads or of packed rows, in a Hugging Face
// name or layout, in the loss mask; a tied gradient that lacks one of its two parts; a rotation of the wrong pairs.
TEST_CASE("in FP32 loss and every gradient agree with transformers", "[parity]") {
  const std::string name = GENERATE(from_range(std::begin(kFixtures), std::end(kFixtures)));
  CAPTURE(name);
  const SafetensorsFile file = fixture(name);
  const Run result = run(file, "fp32");
  const double loss = elements_of<double>(file, "loss")[0];
  REQUIRE(std::abs(result.loss - loss) <= kLossFp32 * loss);
  REQUIRE(compare(result.logits, elements_of<float>(file, "logits")).relative() <= kLossFp32);
  for (const auto& [tensor, comparison] : compare_gradients(file, result)) {
    CAPTURE(tensor, comparison.relative());
    REQUIRE(comparison.relative() <= kGradientFp32);
    REQUIRE(comparison.largest_for_zero <= kZeroFp32 * comparison.largest);
  }
}

// Catches: a rounding too many or in the wrong place, FP32 sums that became BF16, a gradient kept too narrow; a weight
// or bias of mixed_autocast that a product reads without its cast.
TEST_CASE("in BF16 every gradient points where transformers' does, with BF16 weights and with FP32 ones cast for use",
          "[parity]") {
  const std::string name = GENERATE(from_range(std::begin(kFixtures), std::end(kFixtures)));
  const std::string strategy = GENERATE("bf16", "mixed_autocast");
  CAPTURE(name, strategy);
  const SafetensorsFile file = fixture(name);
  const Run result = run(file, strategy);
  const double loss = elements_of<double>(file, "loss")[0];
  REQUIRE(std::abs(result.loss - loss) <= kLossBf16 * loss);
  for (const auto& [tensor, comparison] : compare_gradients(file, result)) {
    CAPTURE(tensor, comparison.relative(), comparison.cosine());
    REQUIRE(comparison.cosine() > kCosineBf16);
    REQUIRE(comparison.relative() < kGradientBf16);
  }
}

// Catches: any other difference between the two than the products. With FP32 products there is none.
TEST_CASE("mixed_autocast with FP32 products is fp32, bit for bit", "[parity]") {
  const std::string name = GENERATE(from_range(std::begin(kFixtures), std::end(kFixtures)));
  const SafetensorsFile file = fixture(name);
  const Run fp32 = run(file, "fp32"), autocast = run(file, "mixed_autocast", {"precision.compute=fp32"});
  REQUIRE(autocast.loss == fp32.loss);
  REQUIRE(autocast.logits == fp32.logits);
  REQUIRE(autocast.gradients == fp32.gradients);
  REQUIRE(run(file, "mixed_autocast").loss != fp32.loss);  // the cast is alive
}

// Catches: fixtures or bounds too mild to notice what they are there for.
TEST_CASE("a small fault in the model exceeds the FP32 bound", "[parity]") {
  struct Fault {
    const char* fixture;
    const char* change;
  };
  const auto fault = GENERATE(values<Fault>({{"gpt2", "model.norm_epsilon=0.00101"},
                                             {"llama", "model.rotary_base=9900"},
                                             {"llama_grouped", "model.norm_epsilon=0.00101"},
                                             {"llama_grouped", "model.rotary_factor=4.1"},
                                             {"llama_grouped", "model.rotary_low_frequency=1.05"},
                                             {"llama_grouped", "model.rotary_high_frequency=4.1"},
                                             {"llama_grouped", "model.rotary_original_length=33"},
                                             {"qwen2", "model.rotary_base=29.7"}}));
  CAPTURE(fault.fixture, fault.change);
  const SafetensorsFile file = fixture(fault.fixture);
  double worst = 0;
  for (const auto& [tensor, comparison] : compare_gradients(file, run(file, "fp32", {fault.change}))) {
    worst = std::max(worst, comparison.relative());
  }
  REQUIRE(worst > kGradientFp32);
}
