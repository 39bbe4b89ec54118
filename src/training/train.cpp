#include "src/training/train.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>

#include "base/counted.h"
#include "base/error.h"
#include "base/free_memory.h"
#include "base/printable.h"
#include "base/words.h"
#include "kernels/threads.h"
#include "src/checkpoint/load.h"
#include "src/checkpoint/weights.h"
#include "src/training/agreement.h"
#include "src/training/checkpoints.h"
#include "src/training/corpus.h"
#include "src/training/extension.h"
#include "src/training/last_save.h"
#include "src/training/matrix_peak.h"
#include "src/training/node_memory.h"
#include "src/training/progress.h"
#include "src/training/resume.h"
#include "src/training/run_folder.h"
#include "src/training/sampler.h"
#include "src/training/signals.h"
#include "src/training/trainer.h"

namespace dither {

namespace {

using Clock = std::chrono::steady_clock;

/// The backend, with the algorithms that the checkpoint's run used, where the config names no others.
std::unique_ptr<Backend> backend_of(const Config& config, const Ranks& ranks, const std::optional<ResumePoint>& resume,
                                    std::vector<std::string>& warnings) {
  std::unique_ptr<Backend> backend = make_backend(config, ranks.gpu(config.parallel), ranks.environment().local_ranks);
  if (!resume) return backend;
  const Manifest& there = resume->manifest;
  try {
    if (config.algorithms.empty() && !there.algorithms.empty()) {
      backend->use_algorithms(there.algorithms, resume->path + ": algorithms");
    }
  } catch (const Error& e) {  // of another device or library
    warnings.push_back(
        fmt::format("the checkpoint's algorithms cannot be used here, so the bits will differ: {}", e.what()));
  }
  if (there.arithmetic != backend->arithmetic()) {
    warnings.push_back(fmt::format("the checkpoint was computed by {}, this run computes by {}: the bits will differ",
                                   there.arithmetic, backend->arithmetic()));
  }
  return backend;
}

FileSystem& files_of(const TrainOptions& options) { return options.files != nullptr ? *options.files : disk(); }

/// Everything that a run holds while it lasts.
class Run {
 public:
  Run(const Config& config, const TrainOptions& options, Ranks& ranks, RunFolder& folder, const Corpus& corpus,
      Beginning beginning)
      : config_(config),
        ranks_(ranks),
        folder_(folder),
        corpus_(checked(corpus, config)),
        beginning_(std::move(beginning)),
        backend_(backend_of(config, ranks, beginning_.resume, beginning_.warnings)),
        peak_(measure_matrix_peak(*backend_, config.precision.compute)),
        engine_(config, std::move(backend_), [this](Backend& backend) { return communicator(backend); }),
        trainer_(engine_, corpus_.shards),
        files_(files_of(options)),
        checkpoints_(engine_, ranks.control(), files_, folder.checkpoints_path(), to_text(corpus.identity)) {
    if (!config.data.validation.empty()) {
      evaluator_.emplace(config, corpus_.tokenizer_or_null());
      demand_same_data(ranks.control(), evaluator_->shards(), "validation data");
    }
    engine_.on_phase([this](const std::string& name) { ranks_.control().phase(name); });
    begin();
    ranks_.control().barrier();  // all that can be refused has been
    if (ranks_.speaks()) open_folder(options);
    if (config.checkpoint.enabled()) demand_shared_folder(ranks_.control(), folder_.path());
    if (ranks_.speaks() && config.checkpoint.enabled()) remove_leftovers(files_of(options), folder_.checkpoints_path());
  }

  /// Once a stop is asked for nothing is done but to save; what is due to be saved comes before evaluations and
  /// samples.
  void loop() {
    const StopSignals signals(config_.checkpoint.on_signal);
    const Clock::time_point begin = Clock::now();
    const Traffic before = engine_.ranks().traffic();  // of what came before the first step
    while (trainer_.steps_done() < config_.steps && !trainer_.must_stop() && !stopping_) {
      StepResult result = step();
      if (ranks_.size() == 1) {  // nobody else has to hear of it first
        result.stop = result.stop || StopSignals::received() != 0;
        result.save = result.save || StopSignals::take_save_request();
      }
      stopping_ = result.stop;
      if (metrics_) metrics_->step(result.record);
      if (progress_) progress_->step(result.record);
      if (result.verdict.skipped) report_skip(result);
      if (result.record.step == first_step_) keep_algorithms();
      // Too many skips end the run: a checkpoint of them would end whatever resumes from it.
      if (!trainer_.must_stop()) checkpoints_.after_step(result, trainer_.state());
      report_checkpoints("training goes on");
      if (trainer_.steps_done() < config_.steps) between_steps(result.record.step);
    }
    in_loop_ = engine_.ranks().traffic() - before;
    finish(std::chrono::duration<double>(Clock::now() - begin).count());
  }

 private:
  /// The communicator of all ranks, which have agreed on what to compute by what.
  std::unique_ptr<Communicator> communicator(Backend& backend) {
    demand_fitting_devices(ranks_.control(), config_, backend);
    demand_fitting_memory(ranks_.control(), config_, backend);
    return ranks_.communicator(config_.parallel, backend, uses_cuda(config_));
  }

  void begin() {
    if (!beginning_.resume) return engine_.initialise();
    const ResumePoint& point = *beginning_.resume;
    engine_.phase("loading " + point.path);
    load_state(point.path, point.manifest, point.config, config_, engine_.table(), engine_.optimizer(),
               engine_.backend(), engine_.stream(), [this] { ranks_.control().at_work(); });
    engine_.publish_weights();
    trainer_.restore(point.manifest.training, point.config);
    first_step_ = trainer_.steps_done() + 1;
    if (in_own_folder(point.path)) checkpoints_.resumed_from(trainer_.steps_done());
  }

  /// Whether the run goes on in its own folder, not from another's checkpoint.
  bool in_own_folder(const std::string& checkpoint) const {
    return std::filesystem::weakly_canonical(checkpoint).parent_path() ==
           std::filesystem::weakly_canonical(folder_.checkpoints_path());
  }

  /// The next step. Where its data cannot be read nothing of it is applied, and the state before it is saved. Not on
  /// several ranks: the others wait within the step, so rank by rank nothing can be saved, and the error ends the job.
  StepResult step() {
    try {
      return trainer_.step([this] { return signs(); });
    } catch (const DataError&) {
      if (ranks_.size() == 1) save_before_error();
      throw;
    }
  }

  void save_before_error() {
    try {
      checkpoints_.finish(trainer_.state(), true);
      report_checkpoints("the run ends");
    } catch (const std::exception& e) {  // the error of the data is the one to be told last
      progress_->warn(words_of(e));
    }
  }

  StepSigns signs() const {
    return {.stop = StopSignals::received() != 0,
            .save = StopSignals::take_save_request() || checkpoints_.due_by_time(),
            .shard_written = checkpoints_.shard_written()};
  }

  void open_folder(const TrainOptions& options) {
    const bool goes_on = beginning_.again || (beginning_.resume && in_own_folder(beginning_.resume->path));
    goes_on ? folder_.reopen(config_) : folder_.create(config_, options.overwrite);
    metrics_.emplace(folder_.metrics_path());
    checkpoints_.before_begin([this] { restore_folder(); });
    checkpoints_.before_commit([this] { metrics_->sync(); });  // what it cannot write, it says itself
    progress_.emplace(config_, folder_.log_path());
    start_up(options);
  }

  void keep_algorithms() {
    if (ranks_.speaks()) folder_.keep_algorithms(engine_.backend().algorithms());
  }

  void start_up(const TrainOptions& options) {
    const int64_t parameters = engine_.table().counted_elements();
    metrics_->start(config_, parameters, engine_.backend().description(), ranks_.size(), corpus_.identity);
    if (beginning_.resume || beginning_.again) {
      metrics_->resume(trainer_.steps_done(), beginning_.resume ? beginning_.resume->path : "", ranks_.size(),
                       config_.parallel.zero_stage);
    }
    progress_->start_up({.parameters = parameters,
                         .ranks = ranks_.size(),
                         .communication = engine_.ranks().world().description(),
                         .memory = Engine::plan(config_, 0, ranks_.size()),
                         .free = free_text(),
                         .thread_limit = thread_limit(),
                         .backend = engine_.backend().description(),
                         .matrix_peak = peak_,
                         .flop_per_token = Model::flop_per_token(config_.model, parameters),
                         .data = data_text(config_, corpus_, trainer_.samples_consumed()),
                         .validation = evaluator_ ? evaluator_->description() : ""});
    for (const std::string& warning : options.warnings) progress_->warn(warning);
    for (const std::string& warning : corpus_warnings(config_, corpus_, evaluator_ ? &evaluator_->shards() : nullptr)) {
      progress_->warn(warning);
    }
    const std::string idle = idle_ranks_warning(config_, ranks_.size());
    if (!idle.empty()) progress_->warn(idle);
    for (const std::string& found : beginning_.found) progress_->say(found);
    for (const std::string& warning : beginning_.warnings) progress_->warn(warning);
    if (!beginning_.resume) return;
    const Manifest& manifest = beginning_.resume->manifest;
    progress_->say(fmt::format("resuming from {}: step {} of {}, {} consumed; written by {}", beginning_.resume->path,
                               with_commas(manifest.training.step), with_commas(config_.steps),
                               counted(manifest.training.samples, "sample"), counted(manifest.ranks, "rank")));
  }

  /// Of what the plan was compared with: what is free beside what the engine has taken by now.
  std::string free_text() {
    const FreeMemory free = uses_cuda(config_) ? FreeMemory{engine_.backend().free_bytes(), "GPU"} : free_memory();
    if (free.bytes < 0) return "";
    return fmt::format("    of {} free ({})", with_commas((free.bytes + engine_.backend().allocated_bytes()) >> 20),
                       free.limit);
  }

  std::string thread_limit() const {
    const bool chosen = uses_cuda(config_) || config_.parallel.threads > 0;
    return chosen ? "" : usable_threads(ranks_.environment().local_ranks).limit;
  }

  /// Rank 0, before something is written: a folder that was removed or moved while the run trains is made again, with
  /// the metrics and the log so far. Throws Error.
  void restore_folder() {
    AppendFile& metrics = metrics_->file();
    AppendFile& log = *progress_->file();
    if (!folder_.is_lost() && !metrics.is_lost() && !log.is_lost()) return;
    folder_.restore(config_);
    if (metrics.is_lost()) metrics.restore();
    if (log.is_lost()) log.restore();
    progress_->warn(folder_.path() +
                    " or a file in it was removed or moved while this run trains: it has been made again with config, "
                    "metrics and log; earlier checkpoints are not in it");
  }

  void report_checkpoints(const char* meanwhile) {
    for (const CheckpointEvent& event : checkpoints_.take_events()) {
      metrics_->checkpoint(event);
      if (!event.error.empty()) {
        progress_->warn(fmt::format("checkpoint of step {}: {}\n       older checkpoints stay, {}",
                                    with_commas(event.step), event.error, meanwhile));
      }
      if (event.path.empty()) continue;
      progress_->say(fmt::format("checkpoint of step {}: {}, {:.1f} MB in {:.2f} s; training waited {:.2f} s",
                                 with_commas(event.step), event.path, static_cast<double>(event.bytes) / 1e6,
                                 event.seconds, event.stall_seconds));
    }
    if (!ranks_.speaks()) return;
    for (const std::string& warning : {checkpoints_.take_warning(), metrics_->take_warning()}) {
      if (!warning.empty()) progress_->warn(warning);
    }
  }

  void report_skip(const StepResult& result) {
    if (!ranks_.speaks()) return;
    metrics_->guard(result.record.step, result.verdict, result.record.loss, result.record.gradient_norm);
    progress_->warn(fmt::format("step {} skipped, {} in a row: {} (loss {}, gradient norm {})", result.record.step,
                                result.verdict.skipped_in_a_row, result.verdict.reason, result.record.loss,
                                result.record.gradient_norm));
  }

  void between_steps(int64_t step) {
    const int64_t evaluate_every = config_.evaluation.every_steps, sample_every = config_.sampling.every_steps;
    if (evaluate_every > 0 && step % evaluate_every == 0) try_beside("evaluation", step, [&] { evaluate(step); });
    if (sample_every > 0 && step % sample_every == 0) try_beside("sample", step, [&] { sample(step); });
  }

  /// What training can do without, unless a stop is asked for: its failure is a warning. On several ranks only one that
  /// all of them know of (go_on()): of any other nobody knows in which collective the others are.
  void try_beside(const char* what, int64_t step, const std::function<void()>& work) {
    if (!go_on("")) return;
    try {
      work();
    } catch (const std::exception& e) {
      if (ranks_.size() > 1) throw;
      failure_ = words_of(e);
    }
    if (!failure_.empty() && ranks_.speaks()) {
      progress_->warn(
          fmt::format("{} at step {}: {}\n       training goes on without it", what, with_commas(step), failure_));
    }
    failure_.clear();
    go_on("");  // a stop that came with the last piece: no further step
  }

  /// Asked by all ranks between two pieces of work beside training, with the reason where a rank cannot do its own:
  /// whether all go on. A checkpoint gets its name here too, as soon as all have written their shards.
  bool go_on(const std::string& failure) {
    const bool stop = stopping_ || StopSignals::received() != 0, written = checkpoints_.shard_written();
    std::vector<std::string> texts = {fmt::format("{:d}{:d}{}", stop, written, failure)};
    if (ranks_.size() > 1) texts = ranks_.control().all_gather(texts[0]);
    int64_t shards_written = 0;
    for (size_t rank = 0; rank < texts.size(); ++rank) {
      stopping_ = stopping_ || texts[rank][0] == '1';
      shards_written += texts[rank][1] == '1' ? 1 : 0;
      const std::string whose = texts.size() > 1 ? fmt::format("rank {}: ", rank) : "";
      if (texts[rank].size() > 2 && failure_.empty()) failure_ = whose + texts[rank].substr(2);
    }
    checkpoints_.between_pieces(shards_written);
    return !stopping_ && failure_.empty();
  }

  /// Whether it came to its end. Leaves the reason in failure_ where a rank could not do its part.
  bool evaluate(int64_t step) {
    if (!evaluator_) return true;
    const EvaluationResult result =
        evaluator_->run(engine_, [this](const std::string& failure) { return go_on(failure); });
    if (result.whole && ranks_.speaks()) {
      metrics_->evaluation(step, result, evaluator_->data());
      progress_->evaluation(step, result);
    }
    return result.whole;
  }

  void sample(int64_t step) {
    engine_.phase(fmt::format("sample at step {}", step));
    const std::string text =  // the same on every rank
        generate(engine_, *corpus_.tokenizer, config_.sampling, step,
                 [this](const std::string& f) { return go_on(f); });
    if (stopping_ || !failure_.empty() || !ranks_.speaks()) return;
    metrics_->sample(step, text);
    progress_->say("sample at step " + with_commas(step) + ": " + printable(text));
  }

  SaveAttempt try_state() {
    checkpoints_.finish(trainer_.state(), !trainer_.must_stop());
    report_checkpoints("the run ends");
    return {trainer_.must_stop() ? "" : checkpoints_.failure(), checkpoints_.is_disk_full()};
  }

  SaveAttempt try_weights() {
    engine_.phase("writing weights");
    SaveAttempt result = attempt([this] {
      if (ranks_.speaks()) restore_folder();
    });
    // Gathering weights needs all ranks, also where rank 0 has no folder to write them to.
    const bool writes = ranks_.speaks() && result.failure.empty();
    const SaveAttempt written = attempt([this, writes] {
      write_weights(writes ? folder_.weights_path() : "", config_, trainer_.steps_done(), engine_.table(),
                    engine_.parameters(), engine_.backend(), engine_.stream(), corpus_.identity.tokenizer, files_);
      if (writes) keep_algorithms();  // those of evaluation and samples too
    });
    return result.failure.empty() ? written : result;
  }

  static SaveAttempt attempt(const std::function<void()>& work) {
    try {
      work();
    } catch (const DiskFull& e) {
      return {e.what(), true};
    } catch (const std::exception& e) {
      return {words_of(e), false};
    }
    return {};
  }

  void finish(double seconds) {
    const int64_t step = trainer_.steps_done();
    const Unsaved unsaved = save_last({.state = [this] { return try_state(); },
                                       .weights = [this] { return try_weights(); },
                                       .warn = [this](const std::string& text) { progress_->warn(text); },
                                       .retry_seconds = config_.checkpoint.retry_seconds},
                                      ranks_.control());
    if (!unsaved.weights.empty()) throw Error("the weights of step " + with_commas(step) + ": " + unsaved.weights);
    const bool complete = step == config_.steps && (!evaluator_ || (go_on("") && evaluate(step)));
    if (!failure_.empty()) throw Error("the evaluation at the end: " + failure_);
    const char* reason = trainer_.must_stop() ? "skipped" : (complete ? "completed" : "signal");
    const SaveAttempt ended = attempt([&] {
      if (metrics_) metrics_->end(step, reason, seconds);
    });
    if (trainer_.must_stop()) {
      if (!ranks_.speaks()) return;  // rank 0's error ends all
      throw Error(fmt::format(
          "skipped {} in a row (guards.stop_after_skips), the last was step {}; the weights "
          "before them are in {}\n       cures: a smaller optimizer.learning_rate, a longer warm-up, "
          "or look at the data near sample {}",
          counted(config_.guards.stop_after_skips, "step"), step, folder_.weights_path(), trainer_.samples_consumed()));
    }
    if (!ranks_.speaks()) return;
    if (!complete) {
      const char* signal = StopSignals::name();
      progress_->say(
          fmt::format("stopped by {} after step {} of {}{}", signal != nullptr ? signal : "a signal to another rank",
                      with_commas(step), with_commas(config_.steps),
                      step == config_.steps ? ": the same command makes up for the evaluation at the end" : ""));
    }
    report_communication(seconds);
    progress_->say(fmt::format("{} in {}, {} skipped{}; weights in {}", counted(step - first_step_ + 1, "step"),
                               duration_text(seconds), trainer_.skipped_steps(), first_step_ > 1 ? " in all" : "",
                               folder_.weights_path()));
    if (!unsaved.state.empty()) {
      throw Error(
          fmt::format("the state after step {} is not saved, only its weights are, in {}\n       the last attempt: "
                      "{}\n       cures: free space or another logging.directory; the same command goes on from "
                      "the newest checkpoint that there is",
                      with_commas(step), folder_.weights_path(), unsaved.state));
    }
    if (!ended.failure.empty()) throw Error(ended.failure);
  }

  void report_communication(double seconds) {
    if (ranks_.size() > 1) progress_->say(communication_text(in_loop_, seconds, uses_cuda(config_)));
  }

  const Config config_;
  Ranks& ranks_;
  RunFolder& folder_;
  const Corpus& corpus_;
  Beginning beginning_;
  std::unique_ptr<Backend> backend_;
  const double peak_;
  Engine engine_;
  Trainer trainer_;
  int64_t first_step_ = 1;
  bool stopping_ = false;  // a rank has been asked to stop, as all ranks know
  std::string failure_;    // of an evaluation or a sample, as all ranks know
  Traffic in_loop_;        // from the first step to the last
  std::optional<MetricsLog> metrics_;
  FileSystem& files_;
  Checkpoints checkpoints_;  // behind the metrics, which its thread may be at
  std::optional<Evaluator> evaluator_;
  std::optional<Progress> progress_;
};

void say_complete(const Config& config, const RunFolder& folder, const Beginning& beginning) {
  Progress progress(config, "");
  for (const std::string& found : beginning.found) progress.say(found);
  for (const std::string& warning : beginning.warnings) progress.warn(warning);
  progress.say(fmt::format(
      "{} is complete, all {} steps are done and its weights are in {}: nothing to do\n       {}; to repeat it: "
      "--overwrite",
      folder.path(), with_commas(config.steps), folder.weights_path(),
      how_to_extend(config, list_checkpoints(folder.checkpoints_path()))));
}

}  // namespace

void train(const Config& config, const TrainOptions& options, Ranks& ranks) {
  demand_same_program(ranks.control());
  demand_same_config(ranks.control(), config);
  ranks.control().phase("start");
  ranks.control().watch(config.parallel.timeout_seconds);
  RunFolder folder(config);
  if (ranks.speaks()) {
    folder.check_owner(options.overwrite);
    folder.lock();
  }
  const Corpus corpus(config);
  demand_same_data(ranks.control(), corpus.shards, "training data");
  demand_same_tokenizer(ranks.control(), corpus.identity.tokenizer);
  const Beginning beginning =
      find_beginning(config, folder, to_text(corpus.identity), options.overwrite, ranks.control());
  if (beginning.complete) {
    if (!ranks.speaks()) return;
    remove_leftovers(files_of(options), folder.checkpoints_path());
    say_complete(config, folder, beginning);
    return;
  }
  Run run(config, options, ranks, folder, corpus, beginning);
  try {
    run.loop();
  } catch (const std::exception& e) {
    ranks.fail(words_of(e));  // before memory is freed, which may wait for a device that waits for other ranks
    throw;
  }
}

}  // namespace dither
