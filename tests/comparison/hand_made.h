// Run folders made by hand, without training: a config, and metrics whose figures a test can compute in its head.
#pragma once

#include <filesystem>
#include <string>

#include "tests/data/files.h"  // TemporaryFolder, write_file()

namespace dither::test {

/// A config of `steps` steps of 128 tokens; `more` goes behind, as in R"(, "seed": 2)".
inline std::string config_text(const std::string& name, int steps, const std::string& more = "") {
  return R"({"name": ")" + name + R"(", "steps": )" + std::to_string(steps) + R"(,
    "model": {"architecture": "llama", "layers": 1, "hidden": 64, "heads": 2, "ffn": 96, "vocabulary": 257,
              "sequence_length": 32},
    "data": {"train": "none.bin", "validation": ""}, "batch": {"tokens_per_step": 128, "micro_batch_size": 2})" +
         more + "}";
}

inline std::string step_event(int step, const std::string& loss, const std::string& more = "") {
  return R"({"event":"step","step":)" + std::to_string(step) + R"(,"tokens":)" + std::to_string(128 * step) +
         R"(,"loss":)" + loss + R"(,"gradient_norm":2.0,"learning_rate":0.5,"tokens_per_second":512.0,)" +
         R"("step_seconds":0.25)" + more + "}\n";
}

inline std::string end_event(int step, const std::string& reason) {
  return R"({"event":"end","step":)" + std::to_string(step) + R"(,"reason":")" + reason +
         R"(","seconds":9.0})"
         "\n";
}

/// Makes `folder` a run's, with these metrics.
inline void make_run(const std::string& folder, const std::string& config, const std::string& metrics) {
  std::filesystem::create_directories(folder);
  write_file(folder + "/config.json", config);
  write_file(folder + "/metrics.jsonl", metrics);
}

}  // namespace dither::test
