#include "src/training/progress.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <ctime>
#include <utility>  // exchange

#include "base/printable.h"
#include "src/training/console.h"

namespace dither {

namespace {

const char* name_of(Positions positions) { return positions == Positions::learned ? "learned" : "rotary"; }

std::string model_text(const ModelConfig& m) {
  const std::string kv = m.kv_heads == m.heads ? "" : fmt::format(" ({} KV)", m.kv_heads);
  return fmt::format("{}: {}, {} wide, {}{} of {}, ffn {}, {}, {} positions",
                     m.preset.empty() ? (m.architecture == Architecture::gpt2 ? "GPT" : "Llama") : m.preset,
                     counted(m.layers, "layer"), with_commas(m.hidden), counted(m.heads, "head"), kv, m.head_size,
                     with_commas(m.ffn), counted(m.sequence_length, "token"), name_of(m.positions));
}

std::string batch_text(const Config& c, int ranks) {
  const int64_t micro_batches = c.batch.tokens_per_step / c.model.sequence_length / c.batch.micro_batch_size;
  const std::string shared =
      micro_batches % ranks == 0
          ? fmt::format("{} accumulated x {}", micro_batches / ranks, counted(ranks, "rank"))
          : fmt::format("{} shared by {}", counted(micro_batches, "micro-batch", "es"), counted(ranks, "rank"));
  return fmt::format("{} = {} x {} x {}", counted(c.batch.tokens_per_step, "token"),
                     counted(c.batch.micro_batch_size, "sequence"), with_commas(c.model.sequence_length), shared);
}

const char* name_of(Reduction reduction) {
  constexpr const char* kNames[] = {"BF16", "FP32", "the order of micro-batches"};
  return kNames[static_cast<int>(reduction)];
}

std::string ranks_text(const ParallelConfig& p, const StartUpFacts& facts) {
  const std::string groups = p.shard_group_size == 0 || p.shard_group_size == facts.ranks
                                 ? ""
                                 : fmt::format(" in groups of {}", p.shard_group_size);
  return fmt::format("{}, ZeRO {}{}, gradients summed in {}    {}", facts.ranks, p.zero_stage, groups,
                     name_of(p.reduction), facts.communication);
}

// Each part rounded to whole MiB, and the total the sum of what is shown.
std::string memory_text(const MemoryPlan& plan) {
  auto mib = [](int64_t bytes) { return (bytes + (1 << 19)) >> 20; };
  const int64_t parts[5] = {mib(plan.parameters), mib(plan.gradients), mib(plan.optimizer_state), mib(plan.activations),
                            mib(plan.workspace)};
  return fmt::format("weights {} + gradients {} + optimizer {} + activations {} + workspace {} = {}", parts[0],
                     parts[1], parts[2], parts[3], parts[4], parts[0] + parts[1] + parts[2] + parts[3] + parts[4]);
}

}  // namespace

std::string communication_text(const Traffic& traffic, double seconds, bool queued) {
  const bool timed = !queued && seconds > 0;
  return fmt::format("communication: {}, {:.2f} GB sent by each rank{}", counted(traffic.calls, "collective"),
                     static_cast<double>(traffic.bytes) / 1e9,
                     timed ? fmt::format("; rank 0 was in them, waiting included, for {:.1f} % of the training time",
                                         100 * traffic.seconds / seconds)
                           : "");
}

std::string duration_text(double seconds) {
  const int64_t s = static_cast<int64_t>(std::lround(std::max(0.0, seconds)));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return fmt::format("{}d{:02}h", s / 86400, s / 3600 % 24);
}

Progress::Progress(const Config& config, const std::string& log_path)
    : config_(config), terminal_(isatty(STDOUT_FILENO) != 0) {
  if (!log_path.empty()) log_.emplace(log_path);
}

Progress::~Progress() { clear_live_line(); }

void Progress::start_up(const StartUpFacts& facts) {
  peak_ = facts.matrix_peak * facts.ranks;
  flop_per_token_ = facts.flop_per_token;
  const StrategyInfo& s = strategy_info(config_.precision.strategy);
  say(fmt::format("model        {}    {} parameters", model_text(config_.model), with_commas(facts.parameters)));
  say(fmt::format("strategy     {}: {}    {:.4g} bytes a parameter", s.name, s.meaning, bytes_per_parameter(config_)));
  say(fmt::format("batch        {}", batch_text(config_, facts.ranks)));
  say(fmt::format("device       {}    {} matrix products reach {:.3g} TFLOP/s (random data)", facts.backend,
                  config_.precision.compute == DType::fp32 ? "FP32" : "BF16", facts.matrix_peak / 1e12));
  if (facts.ranks > 1) say(fmt::format("ranks        {}", ranks_text(config_.parallel, facts)));
  say(fmt::format("memory, MiB  {}{}{}", memory_text(facts.memory), facts.ranks > 1 ? " a rank" : "", facts.free));
  if (!facts.thread_limit.empty()) say(fmt::format("threads      limited by {}", facts.thread_limit));
  say(fmt::format("data         {}", facts.data));
  if (!facts.validation.empty()) say(fmt::format("validation   {}", facts.validation));
  say("");
}

std::string Progress::step_line(const StepRecord& r) {
  constexpr double kMemory = 0.9;  // of the moving average
  seconds_per_step_ =
      seconds_per_step_ == 0 ? r.step_seconds : kMemory * seconds_per_step_ + (1 - kMemory) * r.step_seconds;
  if (r.measured) edq_ = r.measures.model.edq;
  const std::string total = with_commas(config_.steps);
  const double share = peak_ > 0 ? 100 * r.tokens_per_second * flop_per_token_ / peak_ : 0;
  const std::string edq = edq_ < 0 ? "" : fmt::format("  EDQ {:.3f}", edq_);
  const std::string eta = duration_text(seconds_per_step_ * static_cast<double>(config_.steps - r.step));
  return fmt::format(
      "step {:>{}}/{} {:>4.0f} %  loss {:7.4f}  norm {:6.3f}  lr {:.3e}  {:>9} tok/s {:>8.1f} ms  {:4.1f} % of "
      "measured peak{}  ETA {}{}",
      with_commas(r.step), total.size(), total,
      100.0 * static_cast<double>(r.step) / static_cast<double>(config_.steps), r.loss, r.gradient_norm,
      r.learning_rate, with_commas(std::lround(r.tokens_per_second)), 1e3 * r.step_seconds, share, edq, eta,
      r.skipped ? "  SKIPPED" : "");
}

void Progress::step(const StepRecord& record) {
  const std::string line = step_line(record);
  if (record.step % config_.logging.every_steps == 0 || record.step == 1 || record.step == config_.steps) {
    say(line);
  } else if (terminal_) {
    show("\r" + line + "\033[K");
    live_ = true;
  }
}

void Progress::evaluation(int64_t step, const EvaluationResult& r) {
  const std::string bits = std::isnan(r.bits_per_byte) ? "" : fmt::format("  {:.4f} bits/byte", r.bits_per_byte);
  say(fmt::format("evaluation at step {}: validation loss {:.4f}  perplexity {:.2f}{}  ({}, {})", with_commas(step),
                  r.loss, r.perplexity, bits, counted(r.targets, "target"), duration_text(r.seconds)));
}

void Progress::say(const std::string& text) {
  clear_live_line();
  const std::string shown = visible(text);
  show(shown + "\n");
  log(shown);
}

void Progress::warn(const std::string& text) { say("warning: " + text); }

void Progress::show(const std::string& text) {
  const std::string refusal = write_console(stdout, text);
  if (refusal.empty() || console_lost_) return;
  console_lost_ = true;
  log(fmt::format("standard output cannot be written: {}; training goes on, and this file has all lines", refusal));
}

/// A full disk keeps the line in memory until it takes the next one, and the terminal is told once.
void Progress::log(const std::string& text) {
  if (!log_) return;
  const std::string refusal =
      log_->append(fmt::format("{:%Y-%m-%d %H:%M:%S}  {}\n", fmt::localtime(std::time(nullptr)), text));
  const bool refused_before = std::exchange(log_refused_, !refusal.empty());
  if (refused_before || !log_refused_) return;
  show(fmt::format("warning: {} cannot be written: {}\n       its lines wait in memory, training goes on\n",
                   visible(log_->path()), refusal));
}

void Progress::clear_live_line() {
  if (!live_) return;
  live_ = false;
  show("\r\033[K");
}

}  // namespace dither
