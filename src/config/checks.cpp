// Contradictions and warnings. Each message is made of the values that its check used, and names a cure.

#include "src/config/checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>  // lcm

#include "base/counted.h"
#include "base/error.h"
#include "src/config/document.h"  // shown()
#include "src/config/given.h"     // where a value came from
#include "src/config/keys.h"      // allowed()
#include "src/config/presets.h"

namespace dither {
namespace {

constexpr int64_t kMaxMicroBatches = 1 << 23;  // the draw is 24 bits of each random counter, and idle ranks count on
constexpr const char* kNext = "\n       ";     // continues a message under its first line

/// Fails in the name of the file where `path` was given.
[[noreturn]] void fail(const Given& given, const std::string& path, const std::string& text) {
  throw Error(given.origin_of(path) + ": " + path + " " + text);
}

/// A key's value as the config shows it.
std::string value_of(const Config& config, const char* path) { return shown(find_key(path)->load(config)); }

void check_heads(const Config& config, const Given& given) {
  const ModelConfig& m = config.model;
  if (m.heads % m.kv_heads != 0) {
    fail(given, given.find("model.kv_heads") != nullptr ? "model.kv_heads" : "model.heads",
         fmt::format("does not fit: model.kv_heads {} must divide model.heads {}", m.kv_heads, m.heads));
  }
  if (given.find("model.head_size") != nullptr) return;  // then heads * head_size need not be hidden
  const char* cure = "or give model.head_size";
  if (m.hidden % m.heads != 0) {
    fail(given, "model.heads",
         fmt::format("is {}, must divide model.hidden {}: change one of them, {}", m.heads, m.hidden, cure));
  }
  const Key& head_size = *find_key("model.head_size");
  if (!problem(head_size, m.head_size).empty()) {
    fail(given, "model.heads",
         fmt::format(
             "is {}, which makes heads of {} = model.hidden {} / {}, but model.head_size needs {}: change one of "
             "them, {}",
             m.heads, m.head_size, m.hidden, m.heads, allowed(head_size), cure));
  }
}

void check_rotary(const Config& config, const Given& given) {
  const ModelConfig& m = config.model;
  if (m.rotary_scaling != RotaryScaling::llama3) return;
  if (m.positions != Positions::rotary) {
    fail(given, "model.rotary_scaling", "is \"llama3\", but model.positions is \"learned\": nothing is rotated");
  }
  if (m.rotary_low_frequency >= m.rotary_high_frequency) {
    fail(given, "model.rotary_low_frequency",
         fmt::format("is {}, needs to be below model.rotary_high_frequency {}", m.rotary_low_frequency,
                     m.rotary_high_frequency));
  }
}

void check_batch(const Config& config, const Given& given) {
  const BatchConfig& b = config.batch;
  const int64_t micro_batch = int64_t{b.micro_batch_size} * config.model.sequence_length;
  if (b.tokens_per_step % micro_batch != 0) {
    const int64_t below = b.tokens_per_step / micro_batch * micro_batch;
    fail(
        given, "batch.tokens_per_step",
        fmt::format("is {}, needs a multiple of {} = batch.micro_batch_size {} x model.sequence_length {}{}nearest: {}",
                    b.tokens_per_step, micro_batch, b.micro_batch_size, config.model.sequence_length, kNext,
                    below == 0 ? fmt::format("{}", micro_batch) : fmt::format("{} or {}", below, below + micro_batch)));
  }
  if (b.tokens_per_step / micro_batch > kMaxMicroBatches) {
    fail(given, "batch.tokens_per_step",
         fmt::format("is {}: {} micro-batches a step, at most {}; raise batch.micro_batch_size", b.tokens_per_step,
                     b.tokens_per_step / micro_batch, kMaxMicroBatches));
  }
  if (config.steps > std::numeric_limits<int64_t>::max() / b.tokens_per_step) {
    fail(given, "steps",
         fmt::format("is {}, times batch.tokens_per_step {} is more tokens than 64 bits count (2^63)", config.steps,
                     b.tokens_per_step));
  }
}

void check_schedule(const Config& config, const Given& given) {
  const int64_t start = config.optimizer.schedule.start_step;
  if (start > 0 && start >= config.steps) {
    fail(given, "optimizer.schedule.start_step",
         fmt::format("is {}, needs to be below steps {}: the schedule runs from there to the last step", start,
                     config.steps));
  }
}

void check_precision(const Config& config, const Given& given) {
  const PrecisionConfig& p = config.precision;
  const StrategyInfo& strategy = strategy_info(p.strategy);
  const auto demand_fp32 = [&](const char* path, const char* what) {
    const std::string value = value_of(config, path);
    if (value == "\"fp32\"") return;
    fail(given, path,
         fmt::format("is {}, but precision.strategy \"{}\" {}: leave the key out, or choose another strategy", value,
                     strategy.name, what));
  };
  if (strategy.compute == DType::fp32) {
    for (const char* path : {"precision.compute", "precision.residual", "precision.gradient"}) {
      demand_fp32(path, "is FP32 throughout");
    }
  } else if (strategy.weight == DType::fp32) {
    demand_fp32("precision.gradient", "keeps FP32 gradients");
  } else if (p.compute == DType::fp32) {
    fail(given, "precision.compute",
         fmt::format(
             "is \"fp32\", but precision.strategy \"{}\" computes with BF16 weights: leave the key out, or choose "
             "precision.strategy \"fp32\"",
             strategy.name));
  }
  const auto check_moment = [&](const char* path, DType moment, DType of_strategy) {
    if (strategy.free_moments || moment == of_strategy) return;
    fail(given, path,
         fmt::format("is {}, but precision.strategy \"{}\" keeps it in {}: leave the key out; under \"split32\" it is "
                     "a choice",
                     value_of(config, path), strategy.name, name_of(of_strategy)));
  };
  check_moment("precision.first_moment", p.first_moment, strategy.first_moment);
  check_moment("precision.second_moment", p.second_moment, strategy.second_moment);
  if (p.math == Math::bf16 && !all_bf16(strategy)) {
    fail(given, "precision.math",
         fmt::format(
             "is \"bf16\", but precision.strategy \"{}\" keeps FP32 states: leave the key out, or choose a strategy "
             "whose states are all BF16",
             strategy.name));
  }
}

void check_parallel(const Config& config, const Given& given) {
  const ParallelConfig& p = config.parallel;
  const bool matches = p.reduction == Reduction::bf16 ? p.wire == DType::bf16 : p.wire == DType::fp32;
  if (p.reduction != Reduction::ordered && !matches) {
    fail(given, "parallel.wire",
         fmt::format("is {}, but parallel.reduction {} sends what it sums in: leave the key out; it is a choice under "
                     "\"ordered\"",
                     value_of(config, "parallel.wire"), value_of(config, "parallel.reduction")));
  }
  if (p.shard_group_size > 0 && p.zero_stage == 0) {
    fail(given, "parallel.shard_group_size",
         fmt::format("is {}, but parallel.zero_stage 0 shares nothing out: choose stage 1, 2 or 3, or leave it out",
                     p.shard_group_size));
  }
  if (p.share_device && p.transport == Transport::nccl) {
    fail(given, "parallel.share_device",
         "is true, but parallel.transport \"nccl\" needs a GPU for each rank: choose transport \"host\"");
  }
}

void check_data(const Config& config, const Given& given) {
  if (config.data.ignore_token < config.model.vocabulary) return;
  fail(given, "data.ignore_token",
       fmt::format("is {}, which no token is with model.vocabulary {}: needs an id from 0 to {}, or -1 to count all",
                   config.data.ignore_token, config.model.vocabulary, config.model.vocabulary - 1));
}

void check_evaluation(const Config& config, const Given& given) {
  if (config.evaluation.every_steps > 0 && config.data.validation.empty()) {
    fail(given, "evaluation.every_steps",
         fmt::format("is {}, but data.validation is empty: name validation shards, or set evaluation.every_steps to 0",
                     config.evaluation.every_steps));
  }
}

/// A BF16 second moment rounded to nearest goes wrong as its decay nears 1, and cannot fall at all once a step's decay
/// is less than half an ulp of any v: 1 - b2 < 2^-9. With every operation rounded (math bf16), b2*v is rounded to
/// nearest before the gradient comes in, so that stochastic rounding of the sum is no cure.
void warn_of_second_moment(const Config& config, std::vector<std::string>& warnings) {
  constexpr double kWrongFrom = 0.99, kWrongFromLiteral = 0.98;  // mean errors there: 5 % and 3 %
  constexpr double kLoudFrom = 0.998;
  const PrecisionConfig& p = config.precision;
  const StrategyInfo& strategy = strategy_info(p.strategy);
  const bool literal = p.math == Math::bf16;
  if (p.second_moment != DType::bf16 || strategy.second_moment_extra != DType::none) return;
  if (p.second_moment_rounding == Rounding::stochastic && !literal) return;
  const double beta = config.optimizer.betas[1];
  if (beta < (literal ? kWrongFromLiteral : kWrongFrom)) return;

  const std::string where = literal ? "precision.math \"bf16\"" : "precision.second_moment_rounding \"nearest\"";
  const std::string cures = fmt::format(
      "{}cures: {}, precision.strategy \"collage_plus\", or an FP32 second moment (\"mixed\")", kNext,
      literal ? "math \"fp32\" with second_moment_rounding \"stochastic\"" : "second_moment_rounding \"stochastic\"");
  std::string effect = fmt::format("a BF16 second moment is wrong by some {} % on average", literal ? 3 : 5);
  if (beta >= kWrongFrom && literal) effect = "a BF16 second moment is wrong by some 10 % on average";
  if (beta >= kLoudFrom) {
    const bool stuck = 1 - beta < std::ldexp(1.0, -9);
    effect = fmt::format("a BF16 second moment {} fall (1 - {} {} 2^-9): THE RUN GOES WRONG once gradients shrink",
                         stuck ? "cannot" : "can hardly", beta, stuck ? "<" : "is near");
  }
  warnings.push_back(fmt::format("optimizer.betas[1] {} with {}: {}{}", beta, where, effect, cures));
}

void warn_of_idle_keys(const Config& config, std::vector<std::string>& warnings) {
  const PrecisionConfig& p = config.precision;
  const StrategyInfo& strategy = strategy_info(p.strategy);
  const auto warn_of_rounding = [&](const char* path, const char* moment, const char* is) {
    warnings.push_back(
        fmt::format("{} \"stochastic\" does nothing under precision.strategy \"{}\", whose {} moment is {}", path,
                    strategy.name, moment, is));
  };
  if (p.first_moment_rounding == Rounding::stochastic && p.first_moment == DType::fp32) {
    warn_of_rounding("precision.first_moment_rounding", "first", "FP32");
  }
  if (p.second_moment_rounding == Rounding::stochastic) {
    if (p.second_moment == DType::fp32) warn_of_rounding("precision.second_moment_rounding", "second", "FP32");
    if (strategy.second_moment_extra != DType::none) {
      warn_of_rounding("precision.second_moment_rounding", "second", "a length-2 expansion");
    }
  }
  if (!p.fp32_parameters.empty() && strategy.weight == DType::fp32) {
    warnings.push_back(
        fmt::format("precision.fp32_parameters does nothing under precision.strategy \"{}\", which keeps all in FP32",
                    strategy.name));
  }
  const ScheduleConfig& schedule = config.optimizer.schedule;
  if (schedule.decay_shape != DecayShape::linear && schedule.kind != ScheduleKind::wsd) {
    warnings.push_back(fmt::format("optimizer.schedule.decay_shape {} does nothing under optimizer.schedule.kind {}",
                                   value_of(config, "optimizer.schedule.decay_shape"),
                                   value_of(config, "optimizer.schedule.kind")));
  }
}

void warn_of_schedule(const Config& config, std::vector<std::string>& warnings) {
  const OptimizerConfig& o = config.optimizer;
  const int64_t steps = config.steps - o.schedule.start_step;  // of the schedule
  if (o.schedule.warmup_steps > steps) {
    warnings.push_back(fmt::format(
        "optimizer.schedule.warmup_steps {} is longer than the schedule of {}: the learning rate never reaches {}",
        o.schedule.warmup_steps, counted(steps, "step"), o.learning_rate));
  } else if (o.schedule.kind == ScheduleKind::wsd && static_cast<double>(o.schedule.warmup_steps) >
                                                         (1 - o.schedule.decay_fraction) * static_cast<double>(steps)) {
    warnings.push_back(
        fmt::format("optimizer.schedule.warmup_steps {} and decay_fraction {} overlap in a schedule of {}: no steps "
                    "at {} are left",
                    o.schedule.warmup_steps, o.schedule.decay_fraction, counted(steps, "step"), o.learning_rate));
  }
}

/// What is kept for ever is what is both written and a multiple of keep_every.
void warn_of_kept_checkpoints(const Config& config, std::vector<std::string>& warnings) {
  const CheckpointConfig& c = config.checkpoint;
  if (c.keep_every <= 1) return;  // none, or every one
  if (c.every_steps == 0) {
    warnings.push_back(
        fmt::format("checkpoint.keep_every {} with checkpoint.every_steps 0: a checkpoint by time falls on a multiple "
                    "of it by chance alone{}cures: give every_steps, a divisor of {}, or leave keep_every out",
                    c.keep_every, kNext, c.keep_every));
    return;
  }
  if (c.keep_every % c.every_steps == 0 || c.every_steps % c.keep_every == 0) return;
  const auto common = std::lcm(static_cast<uint64_t>(c.keep_every), static_cast<uint64_t>(c.every_steps));  // < 2^64
  const int64_t nearest = std::max<int64_t>(1, c.keep_every / c.every_steps) * c.every_steps;
  warnings.push_back(fmt::format(
      "checkpoint.keep_every {} is no multiple of checkpoint.every_steps {}: {}{}cures: keep_every {} or {}",
      c.keep_every, c.every_steps,
      common > static_cast<uint64_t>(config.steps)
          ? fmt::format("no checkpoint by steps of this run of {} stays for ever", config.steps)
          : fmt::format("of the checkpoints by steps only every {} steps' stays for ever", common),
      kNext, nearest, nearest + c.every_steps));
}

void warn_of_checkpoints(const Config& config, std::vector<std::string>& warnings) {
  const CheckpointConfig& c = config.checkpoint;
  if (c.enabled()) {
    warn_of_kept_checkpoints(config, warnings);
    return;
  }
  const auto warn_of_idle = [&](const char* path, const char* effect) {
    warnings.push_back(fmt::format(
        "{} {} {}: checkpoint.every_steps and checkpoint.every_minutes are both 0, so that no checkpoint is "
        "written{}cures: give one of the two, or leave the key out",
        path, value_of(config, path), effect, kNext));
  };
  if (c.keep_every > 0) warn_of_idle("checkpoint.keep_every", "keeps nothing");
  if (c.on_signal == OnSignal::go_on) warn_of_idle("checkpoint.on_signal", "saves nothing at SIGUSR1");
}

/// A file that names a preset overrides what the files below say about the preset alone, not about single dimensions;
/// who swaps the model of an extended config should know which of its dimensions stayed.
void warn_of_mixed_models(const Config& config, const Given& given, std::vector<std::string>& warnings) {
  const GivenValue* preset = given.find("model.preset");
  if (preset == nullptr || config.model.preset.empty()) return;
  Config published;
  published.model = find_preset(config.model.preset)->model;
  for (const auto& [path, value] : given.values) {
    if (path.rfind("model.", 0) != 0 || value.layer >= preset->layer) continue;
    const auto of_preset = find_key(path)->load(published);
    if (of_preset == *value.value || of_preset == 0) continue;  // 0: the preset leaves it to the other dimensions
    warnings.push_back(fmt::format("{} {} of {} stays, although {} chooses model.preset \"{}\", which has {}", path,
                                   shown(*value.value), value.origin, preset->origin, config.model.preset,
                                   shown(of_preset)));
  }
}

}  // namespace

void check_contradictions(const Config& config, const Given& given) {
  check_heads(config, given);
  check_rotary(config, given);
  check_batch(config, given);
  check_schedule(config, given);
  check_precision(config, given);
  check_parallel(config, given);
  check_data(config, given);
  check_evaluation(config, given);
}

void collect_warnings(const Config& config, const Given& given, std::vector<std::string>& warnings) {
  warn_of_schedule(config, warnings);
  warn_of_second_moment(config, warnings);
  warn_of_idle_keys(config, warnings);
  warn_of_checkpoints(config, warnings);
  warn_of_mixed_models(config, given, warnings);
}

}  // namespace dither
