// The configuration as plain structs: what every room reads. Types, ranges and meanings live in keys.cpp, one line a
// key; the initialisers here are the defaults. A Config that load_config() returned is complete (presets applied) and
// free of contradictions.
#pragma once

#include <algorithm>  // find
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/numerics/strategy.h"  // Strategy, Rounding, Math, DType: the words of the precision section

namespace dither {

enum class Architecture { gpt2, llama };  // which names and layouts a Hugging Face checkpoint has
enum class Normalization { layer_norm, rms_norm };
enum class Positions { learned, rotary };
enum class Activation { gelu, swiglu };  // gelu: the tanh form of GPT-2
enum class RotaryScaling { none, llama3 };

/// The shape of a model. `preset` only names where the values came from; the fields below it are what counts.
struct ModelConfig {
  std::string preset;  // "" or a name of presets.h
  Architecture architecture = Architecture::llama;
  int layers = 0;           // L
  int hidden = 0;           // C, a multiple of 8
  int heads = 0;            // H
  int kv_heads = 0;         // divides heads; equal to heads: no grouping
  int head_size = 0;        // D, default hidden / heads
  int ffn = 0;              // F, inner width of the feed-forward layer
  int64_t vocabulary = 0;   // V, tokens that count; storage is padded to a multiple of 64
  int sequence_length = 0;  // T
  Normalization normalization = Normalization::rms_norm;
  double norm_epsilon = 1e-5;
  Positions positions = Positions::rotary;
  double rotary_base = 10000;
  RotaryScaling rotary_scaling = RotaryScaling::none;
  double rotary_factor = 8;  // the four numbers of Llama 3's scaling
  double rotary_low_frequency = 1;
  double rotary_high_frequency = 4;
  int rotary_original_length = 8192;
  Activation activation = Activation::swiglu;
  bool linear_bias = false;      // biases of all linear layers but the head
  bool qkv_bias = false;         // a bias of the QKV projection alone (Qwen2)
  bool qk_norm = false;          // RMS norm of each query and key head before rotation
  bool tied_embeddings = false;  // head = token embedding
  double init_std = 0.02;        // residual projections: init_std / sqrt(2 L)
};

struct DataConfig {
  std::string train;       // path or glob of token shards
  std::string validation;  // the same; "" = no validation
  int ignore_token = -1;   // targets equal to it do not count in the loss; -1 = all count
};

struct BatchConfig {
  int64_t tokens_per_step = 0;  // a multiple of micro_batch_size * sequence_length
  int micro_batch_size = 8;     // sequences computed at once
};

enum class GradientStorage { bf16_sr, fp32, bf16 };  // sums over micro-batches: BF16 with SR, FP32, BF16 with RN

/// Kinds of tensors that may keep FP32 weights and moments under any strategy. `embedding`: of tokens and positions.
enum class ParameterKind { norm, bias, embedding };

struct PrecisionConfig {
  Strategy strategy = Strategy::bf16_sr;
  DType first_moment = DType::bf16;   // } default by strategy; a choice only where StrategyInfo::free_moments
  DType second_moment = DType::bf16;  // }
  Rounding first_moment_rounding = Rounding::nearest;
  Rounding second_moment_rounding = Rounding::nearest;
  Math math = Math::fp32;
  GradientStorage gradient = GradientStorage::bf16_sr;  // default by strategy
  DType residual = DType::bf16;                         // residual stream; default: the weights' type
  DType compute = DType::bf16;                          // activations and products; default by strategy
  std::vector<ParameterKind> fp32_parameters;           // each at most once

  bool keeps_fp32(ParameterKind kind) const {
    return std::find(fp32_parameters.begin(), fp32_parameters.end(), kind) != fp32_parameters.end();
  }
};

enum class ScheduleKind { constant, linear, cosine, wsd };
enum class DecayShape { linear, one_minus_sqrt };

struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::cosine;
  int64_t start_step = 0;                       // after it the schedule begins: warm-up and course take the steps left
  int64_t warmup_steps = 0;                     // linear from 0 to the learning rate
  double final_fraction = 0.1;                  // of the learning rate, reached at the last step
  double decay_fraction = 0.2;                  // wsd: share of all steps that the final decay takes
  DecayShape decay_shape = DecayShape::linear;  // wsd
};

struct OptimizerConfig {
  double learning_rate = 6e-4;
  std::array<double, 2> betas = {0.9, 0.95};
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  bool decay_embeddings = true;
  double gradient_clip = 1.0;  // largest global norm; 0 = no clipping
  ScheduleConfig schedule;
};

/// How gradients are summed over ranks. `ordered`: a left fold over the global micro-batch index, so that no bit
/// depends on how the work is cut (NUMERICS 10).
enum class Reduction { bf16, fp32, ordered };
enum class Transport { automatic, nccl, mpi, host, none };

struct ParallelConfig {
  int threads = 0;               // CPU threads of this process; 0 = as many as it may use
  int zero_stage = 0;            // shards: 1 optimizer state, 2 and gradients, 3 and weights
  int64_t shard_group_size = 0;  // consecutive ranks that share one copy; 0 = all; smaller: hybrid sharding
  Reduction reduction = Reduction::fp32;
  DType wire = DType::fp32;  // in what gradients travel; default by reduction
  Transport transport = Transport::automatic;
  int device_index = -1;      // -1 = the local rank
  bool share_device = false;  // several ranks may use one GPU
  int timeout_seconds = 600;  // a rank without progress for so long ends the job
};

/// What SIGUSR1 does. SIGTERM and SIGINT always end the run, with a checkpoint where there are any.
enum class OnSignal { exit, go_on };

struct CheckpointConfig {
  int64_t every_steps = 1000;  // 0 = none by steps; with every_minutes 0 too there are no checkpoints at all
  double every_minutes = 0;    // 0 = none by time
  int64_t keep_last = 2;       // newest ones
  int64_t keep_every = 0;      // besides, for ever: those of steps that are multiples of it; 0 = none
  bool async = true;           // written from a host copy while training goes on
  OnSignal on_signal = OnSignal::exit;
  std::string resume = "auto";         // auto, never, or the path of a checkpoint or of a run's folder
  bool allow_strategy_change = false;  // convert a checkpoint of another precision section
  double retry_seconds = 300;          // at the end of a run: how long a full disk is waited for

  bool enabled() const { return every_steps > 0 || every_minutes > 0; }
};

struct EvaluationConfig {
  int64_t every_steps = 0;  // 0 = only at the end
  int64_t tokens = 131072;  // targets that one validation judges; 0 = the whole set (src/data/validation_set.h)
};

struct SamplingConfig {
  int64_t every_steps = 0;  // 0 = never during training
  std::string prompt = "\n";
  int tokens = 128;
  double temperature = 0.8;  // 0 = always the likeliest token
  int top_k = 0;             // 0 = off
  double top_p = 1.0;        // 1 = off
};

struct GuardConfig {
  int64_t stop_after_skips = 10;  // skipped steps in a row that end the run
  int64_t window = 128;           // steps that the z-scores look back on
  double loss_z = 0;              // skip a step whose loss z-score exceeds this; 0 = never
  double gradient_z = 0;          // the same for the gradient norm
};

struct LoggingConfig {
  std::string directory = "runs";    // the run's folder is <directory>/<name>
  int64_t every_steps = 1;           // a line on the terminal; metrics.jsonl has every step
  int64_t measure_every_steps = 20;  // EDQ, imprecision, norms by group; 0 = never
};

struct Config {
  std::vector<std::string> derived;  // keys whose values followed from others when the config was read (derived.h)
  std::string name;
  uint64_t seed = 1337;
  std::string device = "auto";  // auto, cpu, cuda
  std::string algorithms;       // path of a table made by `dither tune`; "": the library's first choice
  int64_t steps = 0;
  ModelConfig model;
  DataConfig data;
  BatchConfig batch;
  PrecisionConfig precision;
  OptimizerConfig optimizer;
  ParallelConfig parallel;
  CheckpointConfig checkpoint;
  EvaluationConfig evaluation;
  SamplingConfig sampling;
  GuardConfig guards;
  LoggingConfig logging;
};

/// Reads a config file and what it extends, applies `--set` assignments ("optimizer.learning_rate=3e-4"; the value is
/// JSON, or a string where it is not), the model preset and the defaults, and checks everything.
/// `warnings` receives what is allowed but looks wrong, one message each.
/// Throws Error: unknown (with the nearest key), repeated or null key, wrong type, out of range, contradiction, cycle
/// of `extends`, missing file, invalid JSON with line and column.
Config load_config(const std::string& path, const std::vector<std::string>& assignments,
                   std::vector<std::string>& warnings);

/// The same from the text of a config that this program has stored: a run's config.json, weights, a checkpoint's
/// manifest. `origin` names it in messages; `extends` is relative to the working directory. Keys that an earlier
/// version wrote and this one no longer has are translated (retired_keys.h); in `assignments` they are refused as
/// load_config() does.
Config parse_config(const std::string& json_text, const std::string& origin,
                    const std::vector<std::string>& assignments, std::vector<std::string>& warnings);

/// The complete config as JSON text: every key with its value. parse_config() of it gives the same Config.
std::string to_json(const Config& config);

/// JSON Schema of the config file (docs/config.schema.json), the reference page (docs/configuration.md), and the page
/// of the precision strategies (docs/strategies.md).
std::string config_schema();
std::string config_reference();
std::string strategies_page();

/// Names of the model presets, in the order of the documentation.
std::vector<std::string> model_presets();

}  // namespace dither
