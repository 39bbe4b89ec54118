#include "src/comparison/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include "base/error.h"
#include "base/free_memory.h"
#include "kernels/threads.h"
#include "src/checkpoint/checkpoint_folder.h"
#include "src/comparison/child.h"
#include "src/training/engine.h"  // Engine::plan()
#include "src/training/folder_lock.h"
#include "src/training/run_folder.h"
#include "src/training/signals.h"

namespace dither {

namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kTick{100};  // between two looks at the runs: no load, and quick enough to watch
constexpr double kLockPatienceSeconds = 10;      // runs of a killed compare end after their step
constexpr double kShareOfFree = 0.8;             // of the free memory: a run's libraries and packed operands want some
constexpr double kGiB = 1 << 30;

std::string folder_of(const Study& study, const StudyRun& run) { return study.folder + "/" + run.name; }

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

RunRecord empty_record(const Study& study, const StudyRun& run) {
  RunRecord record;
  record.folder = folder_of(study, run);
  record.config = run.config;
  return record;
}

bool has_checkpoints(const std::string& folder) { return !list_checkpoints(folder + "/checkpoints").empty(); }

RunStatus status_of(const Study& study, const StudyRun& run) {
  RunStatus status;
  status.run = &run;
  status.parameters = ParameterTable(run.config).counted_elements();
  status.memory_bytes = Engine::plan(run.config).total();
  status.record = empty_record(study, run);
  read_metrics(status.record);
  status.begun = is_run_folder(status.record.folder) || !status.record.error.empty();
  const bool finished = is_finished(status.record);
  if (!finished && !has_checkpoints(status.record.folder)) return status;  // nothing to keep: it begins again
  status.phase = finished ? Phase::ended : Phase::waiting;
  status.earlier = finished;
  try {
    status.conflict = first_difference(run.config, read_run_config(status.record.folder));
  } catch (const Error& e) {  // the config of another version of the program, or none
    status.conflict = e.what();
  }
  return status;
}

/// Whether a run that is started again is to go on, not to begin: it has saved something of this very config.
bool resumes(const RunStatus& status) {
  return status.conflict.empty() && status.run->config.checkpoint.resume != "never" &&
         has_checkpoints(status.record.folder);
}

int64_t known_free_memory() {
  const int64_t bytes = free_memory_bytes();
  if (bytes < 0) throw Error("the system does not say how much memory is free; give the runs a budget with --memory");
  return bytes;
}

/// Two compares would mix in one folder. Runs hold the lock too: it is free again when the last of them has ended, even
/// if their compare was killed.
FolderLockOptions lock_options() {
  const auto refusal = [](const std::string&) {
    return "another dither compare is at work in it, or runs of one that was killed are ending\n"
           "       cures: wait for it, or another name (--set name=...)";
  };
  return {.refusal = refusal, .patience_seconds = kLockPatienceSeconds, .inherited = true};
}

void make_folders(const Study& study) {
  if (is_run_folder(study.folder)) {
    throw Error(study.folder + " is the folder of a run, not of a study\n       cure: another name (--set name=...)");
  }
  std::error_code failed;
  for (const char* part : {"/configs", "/logs"}) {
    fs::create_directories(study.folder + part, failed);
    if (failed) throw Error(study.folder + part + ": the folder cannot be made: " + failed.message());
  }
}

struct Budget {
  int jobs, threads;
  int64_t memory_bytes;
};

Budget budget_for(const std::vector<RunStatus>& runs, const ScheduleOptions& options) {
  const int cores = usable_threads().threads;
  int waiting = 0, given = options.threads;
  bool gpu = false;
  for (const RunStatus& status : runs) {
    if (status.phase != Phase::waiting) continue;
    ++waiting;
    if (options.threads == 0) given = std::max(given, status.run->config.parallel.threads);
    gpu |= uses_cuda(status.run->config);
  }
  Budget budget{};
  budget.jobs = options.jobs > 0 ? options.jobs : (gpu ? 1 : std::max(1, cores / std::max(1, given)));
  budget.jobs = std::max(1, std::min(budget.jobs, waiting));
  budget.threads = given > 0 ? given : std::max(1, cores / budget.jobs);
  const auto available = [&] { return gpu ? make_cuda_backend(0)->free_bytes() : known_free_memory(); };
  budget.memory_bytes = static_cast<int64_t>(options.memory_gib > 0 ? options.memory_gib * kGiB
                                                                    : kShareOfFree * static_cast<double>(available()));
  return budget;
}

class Schedule {
 public:
  Schedule(const Study& study, std::vector<RunStatus>& runs, const Budget& budget)
      : study_(study), runs_(runs), budget_(budget), jobs_(runs.size()) {}

  void loop(const StudyObserver& observe) {
    fail_what_cannot_fit();
    const Clock::time_point begin = Clock::now();
    for (bool stopping = false;;) {
      for (size_t i = 0; i < runs_.size(); ++i) collect(i);
      if (!stopping && StopSignals::received() != 0) {
        stopping = true;
        for (const Job& job : jobs_) {
          if (job.child) job.child->terminate();
        }
      }
      if (!stopping) start_what_fits();
      observe({study_, runs_, budget_.jobs, budget_.threads, seconds_since(begin)});
      const bool waiting = count(Phase::waiting) > 0;
      if (count(Phase::running) == 0 && (stopping || !waiting)) return;
      std::this_thread::sleep_for(kTick);
    }
  }

 private:
  struct Job {
    std::unique_ptr<Child> child;
    std::unique_ptr<MetricsReader> reader;
  };

  int64_t count(Phase phase) const {
    return std::count_if(runs_.begin(), runs_.end(), [phase](const RunStatus& s) { return s.phase == phase; });
  }

  // The log keeps the reason, for reports to come.
  void fail(RunStatus& status, const std::string& reason) {
    status.phase = Phase::ended;
    status.begun = true;
    status.record.end_reason.clear();
    status.record.error = "error: " + reason;
    std::ofstream(log_path_of(status.record.folder), std::ios::app) << status.record.error << '\n';
  }

  void fail_what_cannot_fit() {
    for (RunStatus& status : runs_) {
      if (status.phase != Phase::waiting || status.memory_bytes <= budget_.memory_bytes) continue;
      fail(status, fmt::format("the run needs {:.2f} GiB of memory, and all runs together may take {:.2f} (--memory)",
                               static_cast<double>(status.memory_bytes) / kGiB,
                               static_cast<double>(budget_.memory_bytes) / kGiB));
    }
  }

  // In the order of the study, but a run that must wait for memory lets smaller ones pass.
  void start_what_fits() {
    int64_t used = 0;
    for (const RunStatus& status : runs_) used += status.phase == Phase::running ? status.memory_bytes : 0;
    for (size_t i = 0; i < runs_.size() && count(Phase::running) < budget_.jobs; ++i) {
      if (runs_[i].phase != Phase::waiting || used + runs_[i].memory_bytes > budget_.memory_bytes) continue;
      used += runs_[i].memory_bytes;
      start(i);
    }
  }

  // What an earlier start has left where there is nothing to resume: `dither train --overwrite` would delete it too,
  // but only once the run has come so far, and until then its metrics would be taken for the new ones.
  void forget(RunStatus& status) {
    status.record = empty_record(study_, *status.run);
    try {
      if (fs::exists(status.record.folder)) RunFolder(status.run->config).empty();
    } catch (const std::exception&) {  // a folder that no run made, or the disk: `train` meets it too, and says so
    }
    std::error_code failed;
    fs::remove(log_path_of(status.record.folder), failed);
  }

  // The metrics so far belong to the run; how its last process ended says nothing of the next one.
  void take_up(RunStatus& status, MetricsReader& reader) {
    status.record = empty_record(study_, *status.run);
    while (reader.read(status.record)) {
    }
    status.record.end_reason.clear();
    status.steps_before = status.record.steps_done();
  }

  void start(size_t i) {
    RunStatus& status = runs_[i];
    const bool again = resumes(status);
    jobs_[i].reader = std::make_unique<MetricsReader>(folder_of(study_, *status.run) + "/metrics.jsonl");
    again ? take_up(status, *jobs_[i].reader) : forget(status);
    Config config = status.run->config;
    config.parallel.threads = budget_.threads;
    const std::string path = study_.folder + "/configs/" + status.run->name + ".json";
    std::ofstream file(path);
    file << to_json(config);
    file.close();
    if (!file) throw Error(path + " cannot be written: is the disk full?");
    std::vector<std::string> words = {"train", path};
    if (!again) words.push_back("--overwrite");
    jobs_[i].child = std::make_unique<Child>(words, log_path_of(status.record.folder));
    status.phase = Phase::running;
    status.begun = true;
  }

  void collect(size_t i) {
    Job& job = jobs_[i];
    if (!job.child) return;
    RunStatus& status = runs_[i];
    const bool ended = job.child->ended();  // before the last reading: what it wrote until then is read
    while (job.reader->read(status.record)) {
    }
    if (!ended) return;
    status.phase = Phase::ended;
    if (status.record.end_reason.empty()) {
      status.record.error = last_error(log_path_of(status.record.folder));
      if (status.record.error.empty()) {
        fail(status, job.child->failure().empty() ? "the run ended without a last event" : job.child->failure());
      }
    }
    job = Job{};
  }

  const Study& study_;
  std::vector<RunStatus>& runs_;
  const Budget budget_;
  std::vector<Job> jobs_;
};

}  // namespace

std::vector<RunStatus> survey(const Study& study) {
  std::vector<RunStatus> runs;
  runs.reserve(study.runs.size());
  for (const StudyRun& run : study.runs) runs.push_back(status_of(study, run));
  return runs;
}

void refuse_conflicts(const std::vector<RunStatus>& runs) {
  const auto other = [](const RunStatus& status) { return !status.conflict.empty(); };
  const auto first = std::find_if(runs.begin(), runs.end(), other);
  if (first == runs.end()) return;
  const auto more = std::count_if(first, runs.end(), other) - 1;
  throw Error(
      fmt::format("{} holds {} run of another config: {}{}\n       cures: another name (--set name=...), "
                  "or --overwrite, which repeats every run",
                  first->record.folder, first->earlier ? "a finished" : "an interrupted", first->conflict,
                  more == 0 ? "" : fmt::format(" ({} more runs like it)", more)));
}

std::vector<RunStatus> run_study(const Study& study, const ScheduleOptions& options, const StudyObserver& observe) {
  make_folders(study);
  const FolderLock lock(study.folder, lock_options());
  std::vector<RunStatus> runs = survey(study);
  if (!options.overwrite) refuse_conflicts(runs);  // as the folder is now that nobody else writes in it
  for (const RunStatus& status : runs) {           // all, before the first is touched
    if (options.overwrite && fs::exists(status.record.folder)) RunFolder(status.run->config).check_owner(true);
  }
  for (RunStatus& status : runs) {
    if (!options.overwrite) break;
    // At once for all, so that a compare which is broken off and started again without --overwrite finds none finished,
    // and none to resume.
    if (fs::exists(status.record.folder)) RunFolder(status.run->config).empty();
    status.record = empty_record(study, *status.run);
    status.conflict.clear();
    status.phase = Phase::waiting;
    status.earlier = false;
  }
  Schedule(study, runs, budget_for(runs, options)).loop(observe);
  const auto finished =
      std::count_if(runs.begin(), runs.end(), [](const RunStatus& s) { return is_finished(s.record); });
  if (StopSignals::received() != 0 && finished < static_cast<int64_t>(runs.size())) {
    throw Error(
        fmt::format("{}: stopped by {} with {} of {} runs finished\n       the same command goes on: finished "
                    "runs are not repeated, interrupted ones are resumed",
                    study.folder, StopSignals::name(), finished, runs.size()));
  }
  return runs;
}

}  // namespace dither
