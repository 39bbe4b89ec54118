#include "src/commands/trained_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/counted.h"
#include "base/error.h"
#include "src/checkpoint/checkpoint_folder.h"
#include "src/checkpoint/file_system.h"  // there_is()
#include "src/checkpoint/load.h"
#include "src/checkpoint/state_tensors.h"
#include "src/checkpoint/weights.h"
#include "src/commands/common.h"
#include "src/config/inference.h"

namespace dither {

namespace {

namespace fs = std::filesystem;

TrainedWeights of_file(const std::string& path) {
  const WeightsOrigin origin = read_origin(path);
  TrainedWeights weights;
  weights.path = path;
  weights.step = origin.step;
  weights.config = origin.config;
  weights.tokenizer = origin.tokenizer;
  weights.steps = parse_inference_config(origin.config, path, {}, 0).steps;
  return weights;
}

TrainedWeights of_checkpoint(const std::string& path) {
  TrainedWeights weights;
  weights.path = path;
  weights.manifest = read_manifest(path);
  weights.step = weights.manifest->training.step;
  weights.config = weights.manifest->config;
  weights.tokenizer = parse_data_identity(weights.manifest->data).tokenizer;
  const Config saved = config_of(path, *weights.manifest);
  weights.steps = saved.steps;
  state_tensors(path, *weights.manifest, saved);  // a manifest of another model is refused before memory is taken
  verify_checkpoint(path, *weights.manifest, ReadFrom::cache);
  return weights;
}

/// The newest good one of these later than `step`; none: a path of "". What is damaged is kept in `passed`.
TrainedWeights newest_checkpoint(std::vector<CheckpointEntry> entries, int64_t step, std::vector<std::string>& passed) {
  std::reverse(entries.begin(), entries.end());
  for (const CheckpointEntry& entry : entries) {
    if (entry.step <= step) break;
    try {
      return of_checkpoint(entry.path);
    } catch (const Error& e) {
      if (there_is(entry.path)) passed.emplace_back(e.what());  // else the run that trains there has removed it
    }
  }
  return {};
}

TrainedWeights of_run(const std::string& run) {
  TrainedWeights file;
  std::vector<std::string> passed;
  const std::string path = run + "/weights.safetensors", checkpoints = run + "/checkpoints";
  if (there_is(path)) {
    try {
      file = of_file(path);
    } catch (const Error& e) {
      passed.emplace_back(e.what());
    }
  }
  TrainedWeights newest;
  if (there_is(checkpoints)) newest = newest_checkpoint(list_checkpoints(checkpoints), file.step, passed);
  TrainedWeights& best = newest.path.empty() ? file : newest;
  best.passed = passed;
  if (!best.path.empty()) return best;
  std::string reasons;
  for (const std::string& reason : passed) reasons += "\n       " + reason;
  throw Error(passed.empty() ? run +
                                   " has no weights.safetensors, which training writes when it ends, and no finished "
                                   "checkpoint: name a run, a checkpoint or a file"
                             : run + ": none of its weights is good" + reasons);
}

}  // namespace

std::string TrainedWeights::description() const {
  return step < 0 ? path : fmt::format("{}, step {} of {}", path, with_commas(step), with_commas(steps));
}

TrainedWeights find_weights(const std::string& named) {
  std::string path = named;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  std::error_code unknown;  // a path that cannot be looked at is reported as missing, with its name
  if (!fs::exists(path, unknown)) {
    throw Error(named + " does not exist: needs a run's folder, its weights.safetensors, or a checkpoint");
  }
  if (!fs::is_directory(path, unknown)) return of_file(path);
  if (there_is(path + "/" + kManifestName)) return of_checkpoint(path);
  return of_run(path);
}

void warn_of_passed(const TrainedWeights& weights) {
  for (const std::string& reason : weights.passed) {
    print_warnings({fmt::format("{}; using {} instead", reason, weights.description())});
  }
}

Config config_for_inference(const TrainedWeights& weights, const std::vector<std::string>& assignments, int sequences) {
  Config config = parse_inference_config(weights.config, weights.path, assignments, sequences);
  if (!weights.manifest) check_weights(weights.path, config);
  return config;
}

void check_tokenizer(const TrainedWeights& weights, const Tokenizer& tokenizer) {
  const std::string trained = weights.tokenizer, given = tokenizer.fingerprint();
  if (trained.empty() || trained == given) return;
  throw Error(
      fmt::format("{}: was trained with another tokenizer than {}: XXH3 {} there, {} here ({}), so the ids "
                  "stand for other text\n       cure: data and tokenizer.bin of that run",
                  weights.path, tokenizer.origin(), trained, given, counted(tokenizer.vocabulary(), "token")));
}

void load_weights(const TrainedWeights& weights, Engine& engine) {
  if (weights.manifest) {
    const Config saved = config_of(weights.path, *weights.manifest);
    load_state(weights.path, *weights.manifest, saved, engine.config(), engine.table(), engine.optimizer(),
               engine.backend(), engine.stream());
  } else {
    read_weights(weights.path, engine.table(), engine.optimizer());
  }
  engine.publish_weights();
  demand_finite_weights(weights.path, engine.table(), engine.parameters(), engine.backend(), engine.stream());
}

}  // namespace dither
