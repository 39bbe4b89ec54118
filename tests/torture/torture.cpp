// One run is trained without interruption. Others, of the same config, are killed again and again and started again by
// the same command until they end; whatever was killed, they must come to the same weights and losses, bit for bit.
#include "tests/torture/torture.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <set>
#include <thread>

#include "base/error.h"
#include "tests/checkpoint_faults/forgetful_disk.h"
#include "tests/torture/job.h"
#include "tests/torture/run_record.h"
#include "tests/training/tiny_run.h"  // tiny_config(), write_shard()

namespace dither::torture {

namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kCheckpointSteps = 4;
constexpr int64_t kTokens = 20000;
constexpr double kNoticeSeconds = 5;     // in which ranks end after one of them has died
constexpr double kLongestSeconds = 120;  // of a job: a hang is an error
constexpr size_t kLongestAim = 3;        // a kill is aimed at one of so many next checkpoints
constexpr std::chrono::microseconds kLook{200};

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

uintmax_t size_of(const std::string& path) {
  std::error_code missing;
  const uintmax_t size = fs::file_size(path, missing);
  return missing ? 0 : size;
}

/// A run and where it lies.
struct Run {
  std::string directory, config, image;
  std::string path() const { return directory + "/run"; }
  std::string checkpoints() const { return path() + "/checkpoints"; }
  std::string metrics() const { return path() + "/metrics.jsonl"; }
  std::string weights() const { return path() + "/weights.safetensors"; }
};

class Torturer {
 public:
  explicit Torturer(const Options& options) : options_(options), random_(options.seed) {}

  Figures work() {
    const Clock::time_point begin = Clock::now();
    write_shard(options_.folder + "/train.bin", kTokens, tiny_config(Strategy::bf16_sr).model.vocabulary);
    train_reference();
    while (figures_.kills < options_.kills) torture_run(make_run("run-" + std::to_string(figures_.runs)));
    figures_.seconds = seconds_since(begin);
    return figures_;
  }

 private:
  Run make_run(const std::string& name) const {
    const Run run{options_.folder + "/" + name, options_.folder + "/" + name + ".json",
                  options_.folder + "/" + name + ".image"};
    fs::create_directories(run.directory);
    Config config = tiny_config(Strategy::bf16_sr);
    config.name = "run";
    config.steps = options_.steps;
    config.data.train = options_.folder + "/train.bin";
    config.model.layers = 1;
    config.batch.micro_batch_size = 2;
    config.batch.tokens_per_step = 4 * config.model.sequence_length;
    config.parallel.threads = 1;
    config.parallel.zero_stage = options_.zero_stage;
    if (options_.ranks > 1) config.parallel.transport = Transport::host;
    config.checkpoint.every_steps = kCheckpointSteps;
    config.logging.directory = run.directory;
    std::ofstream file(run.config);
    file << to_json(config);
    file.close();
    if (!file) throw Error(run.config + " cannot be written");
    return run;
  }

  JobOptions job_options(const Run& run, bool forgetful) const {
    return {.config = run.config,
            .real = run.directory,
            .image = forgetful ? run.image : "",
            .log = run.directory + ".log",
            .ranks = options_.ranks};
  }

  void train_reference() {
    reference_ = make_run("reference");
    const Clock::time_point begin = Clock::now();
    Job job(job_options(reference_, options_.forgetful));  // as slow as the others are
    while (!job.ended()) {
      demand_progress(begin, reference_);
      std::this_thread::sleep_for(kLook);
    }
    run_seconds_ = seconds_since(begin);
    expected_ = read_metrics(reference_.metrics());
    if (static_cast<int64_t>(expected_.steps.size()) != options_.steps || expected_.write_seconds.empty()) {
      throw Error(reference_.metrics() + " has not all steps, or no checkpoints");
    }
    std::vector<double> seconds = expected_.write_seconds;
    std::nth_element(seconds.begin(), seconds.begin() + static_cast<int64_t>(seconds.size() / 2), seconds.end());
    write_seconds_ = seconds[seconds.size() / 2];
  }

  /// Kills and starts again until the run has ended; once all kills are done it is left in peace.
  void torture_run(const Run& run) {
    for (bool ended = false; !ended;) {
      const int64_t from = newest_verified(run.checkpoints());
      const size_t resumes = read_metrics(run.metrics()).resumed.size();
      const uintmax_t said = size_of(run.metrics());
      Job job(job_options(run, options_.forgetful));
      const bool killed = figures_.kills < options_.kills && await_moment(run, job);
      if (killed) {
        kill(run, job, size_of(run.metrics()) > said);
      } else {
        const Clock::time_point begin = Clock::now();
        while (!job.ended()) {
          demand_progress(begin, run);
          std::this_thread::sleep_for(kLook);
        }
        ended = true;
      }
      check_resume(run, from, resumes);
    }
    check_end(run);
    ++figures_.runs;
  }

  double uniform(double end) { return std::uniform_real_distribution<double>(0, end)(random_); }

  /// Of each two kills one, drawn by lot, is aimed.
  bool is_aimed() {
    if (figures_.kills % 2 == 0) first_is_aimed_ = random_() % 2 == 0;
    return first_is_aimed_ == (figures_.kills % 2 == 0);
  }

  /// Waits until it is time to kill: any moment of a whole run, or, if aimed, one while a checkpoint is written.
  /// Returns whether there is still somebody to be killed.
  bool await_moment(const Run& run, Job& job) {
    const Clock::time_point begin = Clock::now(), never = begin + std::chrono::hours(1);
    const bool aimed = is_aimed();
    Clock::time_point moment = aimed ? never : begin + microseconds(uniform(run_seconds_));
    size_t aim = 1 + random_() % kLongestAim;
    std::set<std::string> seen;
    while (!job.ended()) {
      if (Clock::now() >= moment) {
        if (!aimed || is_inside_write(run.checkpoints())) return true;
        moment = never;  // the writing was over sooner: the next one
        aim = seen.size() + 1;
      }
      if (aimed && seen.size() < aim) {
        for (const std::string& name : partial_folders(run.checkpoints())) seen.insert(name);
        if (seen.size() >= aim) moment = Clock::now() + microseconds(uniform(write_seconds_));
      }
      demand_progress(begin, run);
      std::this_thread::sleep_until(std::min(moment, Clock::now() + kLook));
    }
    return false;
  }

  static std::chrono::microseconds microseconds(double seconds) {
    return std::chrono::microseconds(static_cast<int64_t>(1e6 * seconds));
  }

  /// `met`: the ranks have found each other. Before that they wait for one that has died for as long as for one that
  /// comes late (DITHER_CONNECT_SECONDS), so then all are killed, as a launcher would do.
  void kill(const Run& run, Job& job, bool met) {
    const bool one = options_.ranks > 1 && random_() % 3 == 0 && met;
    const bool inside = is_inside_write(run.checkpoints());
    if (one) {
      job.kill_one(static_cast<int>(random_() % static_cast<uint64_t>(options_.ranks)), kNoticeSeconds);
    } else {
      job.kill_all();
    }
    ++figures_.kills;
    figures_.of_one_rank += one;
    // All at once: what is there now was there when they died. One of several: when it was killed.
    figures_.inside += one ? inside : is_inside_write(run.checkpoints());

    const Metrics metrics = read_metrics(run.metrics());
    if (options_.forgetful && fs::exists(run.image)) {
      lose_unsynced(run.directory, run.image, figures_.kills % 2 == 0 ? 0 : 1 + random_());
    }
    const int64_t newest = newest_verified(run.checkpoints());
    if (newest < metrics.newest_reported) {
      throw Error(run.checkpoints() + ": the newest checkpoint is that of step " + std::to_string(newest) +
                  ", but that of step " + std::to_string(metrics.newest_reported) + " was reported as finished");
    }
    const int64_t reached = metrics.steps.empty() ? 0 : metrics.steps.rbegin()->first;
    const int64_t lost = std::max<int64_t>(0, reached - newest);
    figures_.steps_lost += lost;
    figures_.worst_lost = std::max(figures_.worst_lost, lost);
    mark_leftovers(run.checkpoints());
  }

  /// If a start came so far as to say where it resumed, that was the newest checkpoint.
  void check_resume(const Run& run, int64_t from, size_t resumes) const {
    const std::vector<int64_t> resumed = read_metrics(run.metrics()).resumed;
    if (resumed.size() <= resumes || resumed.back() == from) return;
    throw Error(run.metrics() + ": resumed from step " + std::to_string(resumed.back()) +
                ", the newest checkpoint was that of step " + std::to_string(from));
  }

  void check_end(const Run& run) const {
    const Metrics metrics = read_metrics(run.metrics());
    for (int64_t step = 1; step <= options_.steps; ++step) {
      const auto found = metrics.steps.find(step);
      if (found == metrics.steps.end()) throw Error(run.metrics() + " has no step " + std::to_string(step));
      if (found->second == expected_.steps.at(step)) continue;
      throw Error(run.metrics() + ": loss or gradient norm of step " + std::to_string(step) +
                  " differs from that of the uninterrupted run, " + reference_.metrics());
    }
    demand_same_weights(run.weights(), reference_.weights());
    if (newest_verified(run.checkpoints()) != options_.steps) {
      throw Error(run.checkpoints() + ": there is no checkpoint of the last step");
    }
    if (has_leftovers(run.checkpoints()))
      throw Error(run.checkpoints() + ": what a killed run has left is still there");
  }

  void demand_progress(Clock::time_point begin, const Run& run) const {
    if (seconds_since(begin) > kLongestSeconds)
      throw Error(run.path() + " does not end: see " + run.directory + ".log");
  }

  const Options options_;
  std::mt19937_64 random_;
  Run reference_;
  Metrics expected_;
  double run_seconds_ = 0, write_seconds_ = 0;
  bool first_is_aimed_ = false;  // of the two kills at hand
  Figures figures_;
};

}  // namespace

Figures torture(const Options& options) { return Torturer(options).work(); }

}  // namespace dither::torture
