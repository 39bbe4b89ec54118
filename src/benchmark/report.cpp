// The lines and the JSON of `dither bench`.
#include "src/benchmark/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>  // pair

#include "base/commit.h"

namespace dither {

namespace {

using Json = nlohmann::ordered_json;

double percent(double share) { return 100 * share; }
double giga(double rate) { return rate / 1e9; }
double tera(double rate) { return rate / 1e12; }

Json json_of(const OperationFigures& f) {
  return {{"operation", f.operation},
          {"shape", f.shape},
          {"samples", f.timing.samples},
          {"seconds", f.timing.seconds},
          {"interquartile_seconds", f.timing.interquartile_seconds},
          {"bytes", f.bytes},
          {"flop", f.flop},
          {"bytes_per_second", static_cast<double>(f.bytes) / f.timing.seconds},
          {"flop_per_second", f.flop / f.timing.seconds},
          {"floor_seconds", f.floor_seconds},
          {"share_of_ceiling", f.share_of_ceiling()},
          {"ceiling", f.bound_by_product ? "product" : "copy"}};
}

Json json_of(const StepFigures& s) {
  Json parts = Json::array();
  for (const auto& [operation, part] : s.parts) {
    parts.push_back({{"operation", operation},
                     {"calls", part.calls},
                     {"seconds", part.seconds},
                     {"share_of_timed_step", part.seconds / s.timed_seconds},
                     {"bytes", part.bytes},
                     {"flop", part.flop},
                     {"floor_seconds", part.floor_seconds},
                     {"share_of_ceiling", part.floor_seconds / part.seconds}});
  }
  return {{"tokens", s.tokens},
          {"samples", s.timing.samples},
          {"seconds", s.timing.seconds},
          {"interquartile_seconds", s.timing.interquartile_seconds},
          {"tokens_per_second", s.tokens_per_second()},
          {"flop", s.flop},
          {"flop_per_second", s.flop / s.timing.seconds},
          {"floor_seconds", s.floor_seconds()},
          {"share_of_ceiling", s.share_of_ceiling()},
          {"timed_seconds", s.timed_seconds},
          {"parts", parts}};
}

}  // namespace

std::string heading_of(const BenchmarkReport& r) {
  const Config& c = r.config;
  return fmt::format(
      "device      {}\nconfig      {}: {} parameters, strategy {}, {} x {} tokens, {} a step\n"
      "ceilings    copy {:.1f} GB/s, product in {} {:.2f} TFLOP/s\n\n"
      "{:23} {:>10} {:>7} {:>9} {:>8} {:>7}  {}\n",
      r.device, c.name, r.parameters, strategy_info(c.precision.strategy).name, c.batch.micro_batch_size,
      c.model.sequence_length, c.batch.tokens_per_step, giga(r.ceilings.copy_bytes_per_second),
      name_of(c.precision.compute), tera(r.ceilings.product_flop_per_second), "operation", "ms", "spread", "GB/s",
      "TFLOP/s", "ceiling", "shape");
}

std::string line_of(const OperationFigures& f) {
  const double seconds = f.timing.seconds;
  return fmt::format("{:23} {:10.4f} {:5.1f} % {:9.2f} {:>8} {:5.1f} %  {}\n", f.operation, 1e3 * seconds,
                     percent(f.timing.interquartile_seconds / seconds), giga(static_cast<double>(f.bytes) / seconds),
                     f.flop > 0 ? fmt::format("{:.3f}", tera(f.flop / seconds)) : "", percent(f.share_of_ceiling()),
                     f.shape);
}

std::string step_table_of(const BenchmarkReport& r) {
  const StepFigures& s = r.step;
  std::string text = fmt::format(
      "\nstep        {:.2f} ms (spread {:.1f} %), {:.0f} tokens/s, {:.2f} TFLOP/s\n"
      "floors      {:.2f} ms in all: {:.1f} % of the step; {:.2f} ms with a wait after each operation:\n\n"
      "{:23} {:>6} {:>10} {:>7} {:>10} {:>9}\n",
      1e3 * s.timing.seconds, percent(s.timing.interquartile_seconds / s.timing.seconds), s.tokens_per_second(),
      tera(s.flop / s.timing.seconds), 1e3 * s.floor_seconds(), percent(s.share_of_ceiling()), 1e3 * s.timed_seconds,
      "operation", "calls", "ms", "share", "floor ms", "ceiling");
  std::vector<std::pair<std::string, Part>> parts(s.parts.begin(), s.parts.end());
  std::sort(parts.begin(), parts.end(),
            [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  for (const auto& [operation, part] : parts) {
    text += fmt::format("{:23} {:6} {:10.3f} {:5.1f} % {:10.3f} {:7.1f} %\n", operation, part.calls, 1e3 * part.seconds,
                        percent(part.seconds / s.timed_seconds), 1e3 * part.floor_seconds,
                        percent(part.floor_seconds / part.seconds));
  }
  return text;
}

std::string json_of(const BenchmarkReport& r) {
  const Config& c = r.config;
  Json operations = Json::array();
  for (const OperationFigures& f : r.operations) operations.push_back(json_of(f));
  Json json = {{"commit", commit()},
               {"quick", r.quick},
               {"device", r.device},
               {"config", c.name},
               {"strategy", strategy_info(c.precision.strategy).name},
               {"compute", name_of(c.precision.compute)},
               {"parameters", r.parameters},
               {"sequence_length_tokens", c.model.sequence_length},
               {"micro_batch_sequences", c.batch.micro_batch_size},
               {"copy_bytes_per_second", r.ceilings.copy_bytes_per_second},
               {"product_flop_per_second", r.ceilings.product_flop_per_second},
               {"operations", operations}};
  if (r.has_step) json["step"] = json_of(r.step);
  return json.dump(2) + "\n";
}

}  // namespace dither
