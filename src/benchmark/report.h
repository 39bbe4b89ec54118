// What `dither bench` says: lines for a terminal, and everything as JSON (docs/benchmarking.md).
#pragma once

#include <string>
#include <vector>

#include "src/benchmark/measure.h"
#include "src/benchmark/step.h"

namespace dither {

struct BenchmarkReport {
  Config config;
  bool quick = false;  // kQuick: figures that only show that everything runs
  std::string device;  // Backend::description()
  int64_t parameters = 0;
  Ceilings ceilings{};
  std::vector<OperationFigures> operations;
  bool has_step = false;
  StepFigures step;
};

/// The device, the config and the ceilings, and the heading of the lines that follow.
std::string heading_of(const BenchmarkReport& report);
std::string line_of(const OperationFigures& figures);
/// The step as a whole and by operation, the largest part first.
std::string step_table_of(const BenchmarkReport& report);

std::string json_of(const BenchmarkReport& report);

}  // namespace dither
