#include "src/training/resume.h"

#include <fmt/format.h>
#include <fmt/ranges.h>  // fmt::join
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "base/counted.h"
#include "base/error.h"
#include "base/input_file.h"
#include "src/checkpoint/checkpoint_folder.h"
#include "src/checkpoint/file_system.h"  // there_is()
#include "src/checkpoint/state_tensors.h"
#include "src/config/computation.h"  // value_text()
#include "src/config/study.h"        // differing_keys()
#include "src/training/extension.h"  // learning_rate_jump()
#include "src/training/metrics.h"    // has_ended()

namespace dither {

namespace {

namespace fs = std::filesystem;

constexpr size_t kNamedKeys = 3;  // of a list of differing keys in a message
constexpr const char* kOther = "--set name=... for another run, --overwrite";

bool begins_with(const std::string& text, const char* start) { return text.rfind(start, 0) == 0; }

/// What rank 0 has found, as all ranks hear of it: the checkpoints to be tried, the best first.
struct Candidates {
  std::vector<std::string> paths;
  bool own = false;         // in a folder that holds this run
  bool again = false;       // it ended before its first checkpoint
  bool on_purpose = false;  // checkpoint.resume names them: what differs is a warning
  std::vector<std::string> found;
};

std::string packed(const Candidates& c) {
  return fmt::format("{:d}{:d}{:d}\n{}", c.own, c.again, c.on_purpose, fmt::join(c.paths, "\n"));
}

Candidates unpacked(const std::string& text) {
  Candidates c;
  c.own = text.at(0) == '1';
  c.again = text.at(1) == '1';
  c.on_purpose = text.at(2) == '1';
  std::istringstream lines(text.substr(4));
  for (std::string line; std::getline(lines, line);) c.paths.push_back(line);
  return c;
}

std::vector<std::string> newest_first(const std::string& folder, std::vector<std::string>& found) {
  std::vector<std::string> paths, steps;
  for (const CheckpointEntry& entry : list_checkpoints(folder)) {
    paths.push_back(entry.path);
    steps.push_back(std::to_string(entry.step));
  }
  std::reverse(paths.begin(), paths.end());
  if (!paths.empty())
    found.push_back(fmt::format("{} holds the checkpoints of step {}", folder, fmt::join(steps, ", ")));
  return paths;
}

/// "optimizer.epsilon 1e-08 there, 1e-06 here, ..." for the keys that stand.
std::string keys_text(const std::vector<DifferingKey>& keys) {
  std::vector<std::string> texts;
  for (size_t i = 0; i < std::min(kNamedKeys, keys.size()); ++i) {
    texts.push_back(fmt::format("{} {} there, {} here", keys[i].path, keys[i].values[0], keys[i].values[1]));
  }
  if (keys.size() > kNamedKeys) texts.push_back(fmt::format("and {} more", keys.size() - kNamedKeys));
  return fmt::format("{}", fmt::join(texts, ", "));
}

std::vector<DifferingKey> differing(const Config& there, const Config& here,
                                    const std::function<bool(const std::string&)>& counts) {
  std::vector<DifferingKey> keys = differing_keys({there, here});
  keys.erase(std::remove_if(keys.begin(), keys.end(), [&](const DifferingKey& key) { return !counts(key.path); }),
             keys.end());
  return keys;
}

// How work is shared out may change at every resume: a checkpoint belongs to no number of ranks. What is only looked at
// changes no state.
bool decides_state(const std::string& path) {
  return !begins_with(path, "parallel.") && !begins_with(path, "evaluation.") && path != "data.validation";
}
bool is_precision(const std::string& path) { return begins_with(path, "precision."); }

[[noreturn]] void refuse_folder(const RunFolder& folder, const std::string& why, const std::string& cures) {
  throw Error(fmt::format("{} exists: {}\n       cures: {}", folder.path(), why, cures));
}

/// A run that was killed before its first checkpoint begins again, if it is the same.
void demand_same_run(const Config& config, const RunFolder& folder) {
  std::vector<std::string> warnings;
  const Config there = parse_config(read_input(folder.config_path(), kConfigFile), folder.config_path(), {}, warnings);
  const std::vector<DifferingKey> keys = differing(there, config, decides_state);
  if (!keys.empty()) refuse_folder(folder, "it holds a run of another config: " + keys_text(keys), kOther);
}

/// Of a path that the config names: a checkpoint, or a run's folder.
std::vector<std::string> named_checkpoints(const std::string& path, std::vector<std::string>& found) {
  if (there_is(path + "/" + kManifestName)) return {path};
  std::vector<std::string> paths = newest_first(path + "/checkpoints", found);
  if (!paths.empty()) return paths;
  throw Error(
      fmt::format("checkpoint.resume: {} {}\n       needs: a checkpoint (runs/a/checkpoints/step-00001000), or the "
                  "folder of a run that has one",
                  path, there_is(path) ? "is no checkpoint and has none" : "does not exist"));
}

/// Whether this very command wrote a checkpoint: with what it computes, it began where this one is told to.
bool written_by(const Config& config, const std::string& checkpoint) {
  const Config there = config_of(checkpoint, read_manifest(checkpoint));
  return there.checkpoint.resume == config.checkpoint.resume && differing(there, config, decides_state).empty();
}

/// Of an own checkpoint that the config names: it, and before it what this command has written since, the newest first.
/// Going back in a run would leave the checkpoints of the steps that are undone, and `auto` would take them.
std::vector<std::string> from_own(const Config& config, const std::vector<CheckpointEntry>& own,
                                  std::vector<std::string>& found) {
  const std::string& named = config.checkpoint.resume;
  std::vector<std::string> paths;
  for (auto entry = own.rbegin(); fs::weakly_canonical(entry->path) != fs::weakly_canonical(named); ++entry) {
    bool ours = true;
    try {
      ours = written_by(config, entry->path);
    } catch (const Error&) {  // damaged: passed over below, with the reason
    }
    if (!ours) {
      throw Error(fmt::format(
          "checkpoint.resume: {} is not this run's newest, which is {}, and that was not written by this command\n"
          "       cures: checkpoint.resume=auto to go on from the newest, --set name=... to begin another run from "
          "this one, or remove the later ones",
          named, own.back().path));
    }
    paths.push_back(entry->path);
  }
  if (!paths.empty()) found.push_back("checkpoint.resume names where this command began; it goes on from its newest");
  paths.push_back(named);
  return paths;
}

Candidates look(const Config& config, const RunFolder& folder, bool overwrite) {
  Candidates c;
  const std::string& resume = config.checkpoint.resume;
  const bool named = resume != "auto" && resume != "never", begun = folder.holds_run() && !overwrite;
  if (!begun) {
    if (named) {
      c.paths = named_checkpoints(resume, c.found);
      c.on_purpose = true;
      const std::string own = fs::weakly_canonical(folder.path()).string() + "/";
      if (overwrite && begins_with(fs::weakly_canonical(c.paths.front()).string(), own.c_str())) {
        throw Error(
            fmt::format("checkpoint.resume: {} would be deleted by --overwrite\n       cure: another name", resume));
      }
    }
    return c;
  }
  if (resume == "never") {
    refuse_folder(folder, "it holds an earlier run, and checkpoint.resume is \"never\"",
                  "checkpoint.resume=auto to go on with it, --set name=..., --overwrite, or remove it");
  }
  c.own = true;
  const std::vector<CheckpointEntry> own = list_checkpoints(folder.checkpoints_path());
  const auto within = [&](const CheckpointEntry& entry) {
    return fs::weakly_canonical(entry.path) == fs::weakly_canonical(resume);
  };
  if (named && std::any_of(own.begin(), own.end(), within)) {
    c.paths = from_own(config, own, c.found);
    c.on_purpose = true;
    return c;
  }
  c.paths = newest_first(folder.checkpoints_path(), c.found);
  if (!c.paths.empty()) {
    if (named) c.found.push_back("checkpoint.resume names where the run began; it goes on from its own");
    return c;
  }
  if (folder.holds_weights()) {
    refuse_folder(folder, "it holds an earlier run, which has ended and has no checkpoints", kOther);
  }
  demand_same_run(config, folder);
  c.again = true;
  c.found.push_back(fmt::format("{} holds a run that ended before its first checkpoint: it begins again {}",
                                folder.path(), named ? "behind the checkpoint that is named" : "at step 1"));
  if (named) {
    c.paths = named_checkpoints(resume, c.found);
    c.on_purpose = true;
  }
  return c;
}

/// Reads a checkpoint, this rank's share of it; what is wrong with it, by the first rank that finds something.
std::string try_checkpoint(const std::string& path, Control& control, ResumePoint& point) {
  std::string wrong;
  try {
    point.path = path;
    point.manifest = read_manifest(path);
    point.config = config_of(path, point.manifest);
    state_tensors(path, point.manifest, point.config);
    verify_shards(path, point.manifest, ReadFrom::cache, control.rank(), control.size(), [&] { control.at_work(); });
  } catch (const Error& e) {
    wrong = e.what();
  }
  const std::vector<std::string> texts = control.all_gather(wrong);
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    if (texts[rank].empty()) continue;
    return rank == 0 ? texts[rank] : fmt::format("{} (found by rank {})", texts[rank], rank);
  }
  return "";
}

/// Holds this run against the one that wrote the checkpoint; what may differ gets a warning.
void compare(const Config& config, const std::string& data, const ResumePoint& point, bool on_purpose,
             Beginning& beginning) {
  const std::vector<DifferingKey> precision = differing(point.config, config, is_precision);
  if (!precision.empty() && !config.checkpoint.allow_strategy_change) {
    throw Error(fmt::format(
        "{}: it was written under another precision section: {}\n       cure: checkpoint.allow_strategy_change=true "
        "converts its state (docs/checkpoint-format.md says what is exact), or the same strategy",
        point.path, keys_text(precision)));
  }
  if (!precision.empty())
    beginning.warnings.push_back("the state is taken over into another precision section: " + keys_text(precision));
  const std::vector<DifferingKey> others = differing(point.config, config, [](const std::string& path) {
    return decides_state(path) && !is_precision(path) && path != "data.train";  // what is in it counts, not where it is
  });
  std::vector<std::string> differences;
  if (!others.empty()) differences.push_back("another config: " + keys_text(others));
  const DataIdentity now = parse_data_identity(data), then = parse_data_identity(point.manifest.data);
  if (now.shards != then.shards) differences.push_back("other training data");
  if (!then.tokenizer.empty() && !now.tokenizer.empty() && now.tokenizer != then.tokenizer) {
    differences.push_back(fmt::format("another tokenizer: the tokenizer.bin beside the shards had XXH3 {}, {} now",
                                      then.tokenizer, now.tokenizer));
  }
  if (!then.tokenizer.empty() && now.tokenizer.empty()) {
    beginning.warnings.push_back("the shards had a tokenizer.bin beside them when " + point.path +
                                 " was written, and have none now");
  }
  for (const std::string& difference : differences) {
    if (!on_purpose) {
      throw Error(
          fmt::format("{}: it was written with {}\n       cures: the config and data of that run, {}, or "
                      "checkpoint.resume={} to take up its state in spite of that",
                      point.path, difference, kOther, point.path));
    }
    beginning.warnings.push_back(fmt::format("{} was written with {}", point.path, difference));
  }
  const std::vector<DifferingKey> sums = differing(point.config, config, [](const std::string& path) {
    return path == "parallel.reduction" || path == "parallel.wire";
  });
  const std::vector<DifferingKey> judged =
      differing(point.config, config, [](const std::string& path) { return path == "evaluation.tokens"; });
  if (!judged.empty())
    beginning.warnings.push_back("validation judges other targets than before: " + keys_text(judged));
  if (!sums.empty()) beginning.warnings.push_back("gradients are summed otherwise than before: " + keys_text(sums));
  const std::string jump = learning_rate_jump(point.config, config, point.manifest.training.step);
  if (!jump.empty()) beginning.warnings.push_back(jump);
  if (point.manifest.training.step > config.steps) {
    throw Error(fmt::format("{}: it is of step {}, and steps is {}\n       cures: a larger steps, or {}", point.path,
                            point.manifest.training.step, config.steps, kOther));
  }
}

/// Before its start the schedule has no learning rate.
void demand_schedule(const Config& config, const Beginning& beginning) {
  const int64_t start = config.optimizer.schedule.start_step,
                done = beginning.resume ? beginning.resume->manifest.training.step : 0;
  if (start <= done) return;
  throw Error(
      fmt::format("optimizer.schedule.start_step is {}, but this run begins at step {}, before it\n"
                  "       cures: checkpoint.resume=a checkpoint of step {} or later, or start_step {} or less",
                  start, done + 1, start, done));
}

}  // namespace

Beginning find_beginning(const Config& config, const RunFolder& folder, const std::string& data, bool overwrite,
                         Control& control) {
  Candidates candidates;
  if (control.rank() == 0) candidates = look(config, folder, overwrite);
  Beginning beginning;
  beginning.found = candidates.found;
  candidates = unpacked(control.broadcast(packed(candidates)));
  beginning.again = candidates.again;
  if (candidates.paths.empty()) {
    demand_schedule(config, beginning);
    return beginning;
  }
  if (candidates.own) demand_shared_folder(control, folder.path());

  control.phase("reading checkpoints");
  for (const std::string& path : candidates.paths) {
    ResumePoint point;
    const std::string wrong = try_checkpoint(path, control, point);
    if (wrong.empty()) {
      beginning.resume = std::move(point);
      break;
    }
    if (candidates.paths.size() == 1 && candidates.on_purpose) throw Error(wrong);
    beginning.warnings.push_back(wrong);
  }
  if (!beginning.resume) {
    throw Error(fmt::format("{}: none of its {} is good\n       {}\n       cures: restore one, {}", folder.path(),
                            counted(static_cast<int64_t>(candidates.paths.size()), "checkpoint"),
                            fmt::join(beginning.warnings, "\n       "), kOther));
  }
  for (std::string& warning : beginning.warnings) {
    warning += fmt::format("; resuming from {} instead", fs::path(beginning.resume->path).filename().string());
  }
  compare(config, data, *beginning.resume, candidates.on_purpose, beginning);
  demand_schedule(config, beginning);
  const int64_t step = beginning.resume->manifest.training.step;
  if (candidates.own && step == config.steps) {
    const bool complete = control.rank() == 0 && folder.holds_weights() && has_ended(folder.metrics_path(), step);
    beginning.complete = control.broadcast(complete ? "yes" : "") == "yes";
  }
  return beginning;
}

void demand_shared_folder(Control& control, const std::string& folder) {
  if (control.size() == 1) return;
  // A fresh name: a network file system remembers for a while what was not there.
  std::string path;
  if (control.rank() == 0) {
    path =
        fmt::format("{}/.rank-0-{}-{}", folder, getpid(), std::chrono::steady_clock::now().time_since_epoch().count());
    if (!std::ofstream(path)) throw Error(path + " cannot be made: may this user write there, is the disk full?");
  }
  path = control.broadcast(path);
  constexpr int kLooks = 20;
  constexpr std::chrono::milliseconds kPause{100};
  bool seen = there_is(path);
  for (int i = 0; i < kLooks && !seen; ++i) {
    std::this_thread::sleep_for(kPause);
    seen = there_is(path);
  }
  const std::vector<std::string> answers = control.all_gather(seen ? "yes" : fs::absolute(folder).string());
  if (control.rank() == 0) {
    std::error_code left;  // an empty file, which harms nobody
    fs::remove(path, left);
  }
  for (size_t rank = 0; rank < answers.size(); ++rank) {
    if (answers[rank] == "yes") continue;
    throw Error(
        fmt::format("rank {} does not see in {} what rank 0 writes there: checkpoints need a folder that all ranks "
                    "share\n       cures: logging.directory on a file system of all nodes, or "
                    "checkpoint.every_steps=0 for a run without checkpoints",
                    rank, answers[rank]));
  }
}

}  // namespace dither
