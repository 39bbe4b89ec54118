// Timings, a step taken apart, and the report as JSON.
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/commit.h"
#include "src/benchmark/report.h"
#include "tests/catch.h"
#include "tests/training/tiny_run.h"

namespace dither {
namespace {

using Json = nlohmann::json;

constexpr Ceilings kCeilings{.copy_bytes_per_second = 1e10, .product_flop_per_second = 1e12};

StepFigures step_of(const Config& config) {
  auto owned = std::make_unique<TimedBackend>(make_cpu_backend(2));
  TimedBackend& backend = *owned;
  Engine engine(config, std::move(owned));
  return measure_step(engine, backend, kCeilings, 0);
}

void require_numbers(const Json& json, const std::vector<std::string>& keys) {
  for (const std::string& key : keys) {
    INFO(key);
    REQUIRE(json.contains(key));
    REQUIRE(json.at(key).is_number());
    REQUIRE(std::isfinite(json.at(key).get<double>()));
  }
}

}  // namespace

// Catches: an unsorted median, the mean in its place, a spread from the smallest to the largest.
TEST_CASE("a timing is the median and the distance of the quartiles") {
  const Timing four = timing_of({4, 1, 3, 2});
  REQUIRE(four.seconds == 2.5);
  REQUIRE(four.interquartile_seconds == 1.5);
  REQUIRE(four.samples == 4);
  const Timing five = timing_of({50, 1, 2, 3, 1000});
  REQUIRE(five.seconds == 3);
  REQUIRE(five.interquartile_seconds == 48);
  const Timing one = timing_of({7});
  REQUIRE(one.seconds == 7);
  REQUIRE(one.interquartile_seconds == 0);
}

// Catches: operations missed or counted twice, elements of segments counted once for each of them, FLOP of one
// micro-batch only, a floor of the whole that is not the parts'.
TEST_CASE("a step taken apart has every operation of the model, with its bytes, FLOP and floor") {
  Config config = tiny_config(Strategy::mixed, Architecture::gpt2);
  config.batch.tokens_per_step *= 2;
  const StepFigures step = step_of(config);
  const auto part = [&](const char* name) {
    INFO(name);
    REQUIRE(step.parts.count(name) == 1);
    return step.parts.at(name);
  };
  constexpr int64_t kMicroBatches = 2, kLayers = 2, N = 8 * 24, C = 64, F = 96, Vp = 64;
  const double layer = 2.0 * N * (C * 3 * C + C * C + C * F + F * C), head = 2.0 * N * C * Vp;
  for (const char* name : {"linear_forward", "linear_input_gradient", "linear_weight_gradient"}) {
    REQUIRE(part(name).calls == kMicroBatches * (4 * kLayers + 1));
    REQUIRE(part(name).flop == kMicroBatches * (kLayers * layer + head));
  }
  REQUIRE(part("attention_forward").calls == kMicroBatches * kLayers);
  REQUIRE(part("residual_norm_backward").calls == kMicroBatches * (2 * kLayers + 1));
  REQUIRE(part("cross_entropy").calls == kMicroBatches);
  REQUIRE(part("adamw").calls == 1);
  const ParameterTable table(config);
  int64_t elements = 0;
  for (const Segment& segment : table.segments(Plane::strategy)) elements += segment.count;
  REQUIRE(part("adamw").bytes == elements * (2 * (2 + 4 + 4 + 4) + 4));
  REQUIRE(part("squared_norm").bytes == elements * 4);

  double seconds = 0, floors = 0;
  for (const auto& [name, p] : step.parts) {
    seconds += p.seconds;
    floors += p.floor_seconds;
    REQUIRE(p.floor_seconds >= kCeilings.floor_seconds(p.bytes, p.flop) * (1 - 1e-12));  // maxima of calls, added up
  }
  REQUIRE(seconds <= step.timed_seconds);
  REQUIRE(step.floor_seconds() == floors);
  REQUIRE(step.timing.samples == 3);
  REQUIRE(step.tokens == kMicroBatches * N);
  REQUIRE(step.share_of_ceiling() > 0);
}

// Catches: figures missing from the file, figures that are no numbers, a unit off by a thousand. Ceilings are measured
// beside other programs and small tensors lie in caches, so shares may exceed 1.
TEST_CASE("the JSON report has the device, the commit and every figure, with shares of a sane size") {
  const Config config = tiny_config(Strategy::bf16_sr);
  auto owned = std::make_unique<TimedBackend>(make_cpu_backend(2));
  TimedBackend& backend = *owned;
  BenchmarkReport report;
  report.config = config;
  report.device = backend.description();
  report.quick = true;
  report.ceilings = measure_ceilings(backend, config.precision.compute, kQuick);
  for (const Case& c : operation_cases(config)) {
    report.operations.push_back(measure(backend, c, report.ceilings, kQuick));
  }
  REQUIRE(backend.allocated_bytes() == 0);
  Json json = Json::parse(json_of(report));
  REQUIRE(!json.contains("step"));
  Engine engine(config, std::move(owned));
  report.parameters = engine.table().counted_elements();
  report.step = measure_step(engine, backend, report.ceilings, 0);
  report.has_step = true;
  json = Json::parse(json_of(report));

  REQUIRE(json.at("commit") == commit());
  REQUIRE(json.at("device") == backend.description());
  REQUIRE(json.at("config") == "tiny");
  REQUIRE(json.at("strategy") == "bf16_sr");
  REQUIRE(json.at("compute") == "bf16");
  REQUIRE(json.at("quick") == true);
  require_numbers(json, {"parameters", "sequence_length_tokens", "micro_batch_sequences", "copy_bytes_per_second",
                         "product_flop_per_second"});
  REQUIRE(json.at("operations").size() == operation_cases(config).size());
  for (const Json& operation : json.at("operations")) {
    INFO(operation.dump());
    require_numbers(operation, {"samples", "seconds", "interquartile_seconds", "bytes", "flop", "bytes_per_second",
                                "flop_per_second", "floor_seconds", "share_of_ceiling"});
    REQUIRE(operation.at("share_of_ceiling").get<double>() > 0);
    REQUIRE(operation.at("share_of_ceiling").get<double>() < 100);
    const std::string ceiling = operation.at("ceiling");
    REQUIRE((ceiling == "copy" || ceiling == "product"));
  }
  const Json& step = json.at("step");
  require_numbers(step, {"tokens", "samples", "seconds", "interquartile_seconds", "tokens_per_second", "flop",
                         "flop_per_second", "floor_seconds", "share_of_ceiling", "timed_seconds"});
  REQUIRE(step.at("parts").size() == report.step.parts.size());
  for (const Json& part : step.at("parts")) {
    require_numbers(part,
                    {"calls", "seconds", "share_of_timed_step", "bytes", "flop", "floor_seconds", "share_of_ceiling"});
  }
}

}  // namespace dither
