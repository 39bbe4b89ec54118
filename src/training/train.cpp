#include "src/training/train.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "src/checkpoint/weights.h"
#include "src/training/agreement.h"
#include "src/training/matrix_peak.h"
#include "src/training/progress.h"
#include "src/training/run_folder.h"
#include "src/training/sampler.h"
#include "src/training/signals.h"
#include "src/training/trainer.h"

namespace dither {

namespace {

using Clock = std::chrono::steady_clock;

// The tokenizer beside the training shards; a corpus may come without one.
std::optional<Tokenizer> tokenizer_of(const Config& config, const TokenShards& shards) {
  const std::string path = tokenizer_path_beside(shards.path(0));
  if (std::filesystem::exists(path)) return Tokenizer(path);
  if (config.sampling.every_steps > 0) {
    throw Error(path + " does not exist: sampling.every_steps needs the tokenizer beside the training shards");
  }
  return std::nullopt;
}

/// Tokens are checked when they are read; a corpus that takes no more than some seconds to read is checked whole before
/// a run begins.
const TokenShards& checked(const TokenShards& shards, int64_t vocabulary) {
  constexpr int64_t kCheckedWhole = 2'000'000'000;
  if (shards.tokens() <= kCheckedWhole) shards.check(vocabulary);
  return shards;
}

std::string data_text(const Config& config, const TokenShards& shards) {
  const double seen = static_cast<double>(config.steps) * static_cast<double>(config.batch.tokens_per_step);
  return fmt::format("{}: {} shards, {} tokens; {} steps see {:.2f} of them    from sample 0, seed {}",
                     shards.pattern(), shards.shards(), with_commas(shards.tokens()), with_commas(config.steps),
                     seen / static_cast<double>(shards.tokens()), config.seed);
}

/// Everything that a run holds while it lasts.
class Run {
 public:
  Run(const Config& config, const TrainOptions& options, Ranks& ranks)
      : config_(config),
        ranks_(ranks),
        folder_(config, options.overwrite || !ranks.speaks()),
        shards_(config.data.train),
        tokenizer_(tokenizer_of(config, checked(shards_, config.model.vocabulary))),
        backend_(make_backend(config, ranks.gpu(config.parallel))),
        peak_(measure_matrix_peak(*backend_, config.precision.compute)),
        engine_(config, std::move(backend_), [this](Backend& backend) { return communicator(backend); }),
        trainer_(engine_, shards_) {
    if (!config.data.validation.empty()) {
      evaluator_.emplace(config, tokenizer_ ? &*tokenizer_ : nullptr);
      demand_same_data(ranks.control(), evaluator_->shards(), "validation data");
    }
    engine_.on_phase([this](const std::string& name) { ranks_.control().phase(name); });
    engine_.initialise();
    ranks_.control().barrier();  // all that can be refused has been
    if (ranks_.speaks()) open_folder(options);
  }

  void loop() {
    const StopSignals signals;
    const Clock::time_point begin = Clock::now();
    bool stop = false;
    while (trainer_.steps_done() < config_.steps && !trainer_.must_stop() && !stop) {
      const StepResult result = trainer_.step(StopSignals::received() != 0);
      stop = result.stop || (ranks_.size() == 1 && StopSignals::received() != 0);
      if (metrics_) metrics_->step(result.record);
      if (progress_) progress_->step(result.record);
      if (result.verdict.skipped) report_skip(result);
      if (result.record.step == 1) keep_algorithms();
      if (trainer_.steps_done() < config_.steps) between_steps(result.record.step);
    }
    finish(std::chrono::duration<double>(Clock::now() - begin).count());
  }

 private:
  /// The communicator of all ranks, which have agreed on what to compute by what.
  std::unique_ptr<Communicator> communicator(Backend& backend) {
    demand_same_data(ranks_.control(), shards_, "training data");
    demand_fitting_devices(ranks_.control(), config_, backend);
    return ranks_.communicator(config_.parallel, backend, uses_cuda(config_));
  }

  void open_folder(const TrainOptions& options) {
    folder_.create(config_);
    metrics_.emplace(folder_.metrics_path());
    progress_.emplace(config_, folder_.log_path());
    start_up(options);
  }

  void keep_algorithms() {
    if (ranks_.speaks()) folder_.keep_algorithms(engine_.backend().algorithms());
  }

  void start_up(const TrainOptions& options) {
    const int64_t parameters = engine_.table().counted_elements();
    metrics_->start(config_, parameters, engine_.backend().description(), ranks_.size());
    progress_->start_up({.parameters = parameters,
                         .ranks = ranks_.size(),
                         .communication = engine_.ranks().world().description(),
                         .memory = Engine::plan(config_, 0, ranks_.size()),
                         .backend = engine_.backend().description(),
                         .matrix_peak = peak_,
                         .flop_per_token = Model::flop_per_token(config_.model, parameters),
                         .data = data_text(config_, shards_)});
    for (const std::string& warning : options.warnings) progress_->warn(warning);
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
    if (evaluate_every > 0 && step % evaluate_every == 0) evaluate(step);
    if (sample_every > 0 && step % sample_every == 0) sample(step);
  }

  void evaluate(int64_t step) {
    if (!evaluator_) return;
    const EvaluationResult result = evaluator_->run(engine_);
    if (!ranks_.speaks()) return;
    metrics_->evaluation(step, result);
    progress_->evaluation(step, result);
  }

  void sample(int64_t step) {
    engine_.phase(fmt::format("sample at step {}", step));
    const std::string text = generate(engine_, *tokenizer_, config_.sampling, step);  // the same on every rank
    if (!ranks_.speaks()) return;
    metrics_->sample(step, text);
    progress_->say("sample at step " + with_commas(step) + ": " + text);
  }

  // Weights first: whatever ended the run, they are there.
  void finish(double seconds) {
    const int64_t step = trainer_.steps_done();
    const char* signal = StopSignals::name();
    engine_.phase("writing weights");
    write_weights(ranks_.speaks() ? folder_.weights_path() : "", config_, step, engine_.table(), engine_.parameters(),
                  engine_.backend(), engine_.stream());
    keep_algorithms();  // those of evaluation and samples too
    const char* reason = trainer_.must_stop() ? "skipped" : (step < config_.steps ? "signal" : "completed");
    if (step == config_.steps) evaluate(step);
    if (metrics_) metrics_->end(step, reason, seconds);
    if (trainer_.must_stop()) {
      if (!ranks_.speaks()) return;  // rank 0's error ends all
      throw Error(
          fmt::format("{} steps in a row were skipped (guards.stop_after_skips), the last was step {}; the weights "
                      "before them are in {}\n       cures: a smaller optimizer.learning_rate, a longer warm-up, "
                      "or look at the data near sample {}",
                      config_.guards.stop_after_skips, step, folder_.weights_path(), trainer_.samples_consumed()));
    }
    if (!ranks_.speaks()) return;
    if (step < config_.steps) {
      const char* by = signal != nullptr ? signal : "a signal to another rank";
      progress_->say(
          fmt::format("stopped by {} after step {} of {}", by, with_commas(step), with_commas(config_.steps)));
    }
    report_communication(seconds);
    progress_->say(fmt::format("{} steps in {}, {} skipped; weights in {}", with_commas(step), duration_text(seconds),
                               trainer_.skipped_steps(), folder_.weights_path()));
  }

  void report_communication(double seconds) {
    if (ranks_.size() == 1) return;
    const Traffic traffic = engine_.ranks().traffic();
    const std::string time = uses_cuda(config_)
                                 ? ""  // queued: their time is the device's
                                 : fmt::format(", {:.1f} % of the time", 100 * traffic.seconds / seconds);
    progress_->say(fmt::format("communication: {} collectives, {:.2f} GB sent by each rank{}",
                               with_commas(traffic.calls), static_cast<double>(traffic.bytes) / 1e9, time));
  }

  const Config config_;
  Ranks& ranks_;
  const RunFolder folder_;
  const TokenShards shards_;
  const std::optional<Tokenizer> tokenizer_;
  std::unique_ptr<Backend> backend_;
  const double peak_;
  Engine engine_;
  Trainer trainer_;
  std::optional<Evaluator> evaluator_;
  std::optional<MetricsLog> metrics_;
  std::optional<Progress> progress_;
};

}  // namespace

void train(const Config& config, const TrainOptions& options, Ranks& ranks) {
  demand_same_program(ranks.control());
  demand_same_config(ranks.control(), config);
  ranks.control().phase("start");
  ranks.control().watch(config.parallel.timeout_seconds);
  Run run(config, options, ranks);
  try {
    run.loop();
  } catch (const std::exception& e) {
    ranks.fail(e.what());  // before memory is freed, which may wait for a device that waits for other ranks
    throw;
  }
}

}  // namespace dither
