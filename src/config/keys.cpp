// THE table of configuration keys: path, type, range or words, meaning. A key's path names its field in Config, and
// its default is the field's initialiser in config.h, so neither exists twice; model keys take theirs from a preset or
// a family (presets.cpp). A new key is a field there and a line here.

#include "src/config/keys.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "src/config/derived.h"       // derivations()
#include "src/config/key_builders.h"  // FIELD, integer(), real(), pair(), word(), text(), boolean(), directive()
#include "src/config/presets.h"       // names of the models

namespace dither {
namespace {

constexpr uint64_t kMaxSteps = 4294967295;            // the step is one 32-bit word of each random counter
constexpr uint64_t kMaxTokensPerStep = 1ull << 40;    // two million sequences of half a million tokens
constexpr uint64_t kMaxVocabulary = 1ull << 24;       // sixty times today's largest
constexpr uint64_t kMaxSequence = 1ull << 20;         // so that offsets into any activation stay within 2^62
constexpr uint64_t kMaxWidth = 1ull << 20;            // the same
constexpr uint64_t kMaxSeed = 18446744073709551615u;  // the Philox key has 64 bits
constexpr uint64_t kMaxValidation = 1ull << 50;       // a bound only against misprints
constexpr uint64_t kMaxRanks = 1ull << 20;            // a bound only against misprints
constexpr double kMaxMinutes = 5e7;                   // a century: its nanoseconds still fit 64 bits
constexpr double kMaxRetrySeconds = 86400;            // a day
constexpr double kLeast = 1e-30;                      // FP32 arithmetic sees 0 below 1.2e-38
constexpr double kMost = 1e12;                        // a bound only against misprints

std::vector<Word> strategy_words() {
  std::vector<Word> words;
  words.reserve(kStrategies.size());
  for (const StrategyInfo& info : kStrategies) words.push_back({info.name, static_cast<int>(info.id), info.meaning});
  return words;
}

std::vector<Word> preset_words() {
  std::vector<Word> words = {{"", 0, "no preset: the dimensions stand in the config"}};
  for (const ModelPreset& preset : preset_table()) words.push_back({preset.name, 0, preset.meaning});
  return words;
}

/// The words of an enum; its enumerators count from 0 in the same order.
std::vector<Word> words(const std::vector<std::pair<std::string, std::string>>& names_and_meanings) {
  std::vector<Word> list;
  list.reserve(names_and_meanings.size());
  for (const auto& [name, meaning] : names_and_meanings) list.push_back({name, static_cast<int>(list.size()), meaning});
  return list;
}

std::vector<Word> float_words() {
  return {{"bf16", static_cast<int>(DType::bf16), "BF16"}, {"fp32", static_cast<int>(DType::fp32), "FP32"}};
}

const char* const kDimension = "the preset's; required without one";
const char* const kByStrategy = "by precision.strategy: docs/strategies.md";
const std::vector<std::pair<std::string, std::string>> kRoundings = {
    {"nearest", "to nearest, ties to even"}, {"stochastic", "up or down at random, exact in the mean"}};

/// `derived`, which saved configs have: its words are the keys that may be derived.
KeyLine derived_directive() {
  KeyLine key =
      directive(kDerivedKey, KeyType::words,
                "of a saved config: the keys that nobody gave; they give way where what they follow from changes");
  for (const Derivation& d : derivations()) key.words.push_back({d.key, 0, ""});
  return key;
}

std::vector<Key> reading_and_run_keys() {
  return {
      directive("$schema", KeyType::text, "for editors: where docs/config.schema.json is; not read"),
      directive("extends", KeyType::text,
                "config file whose keys hold where this one says nothing; relative to this file"),
      derived_directive(),
      text(FIELD(name), TextRule::folder_name, "names the run's folder; never taken from an extended file")
          .by("the config file's name without .json"),
      integer(FIELD(seed), {0, kMaxSeed}, "all random bits of the run follow from it"),
      word(FIELD(device),
           words({{"auto", "cuda if the build has it and a GPU is there, else cpu"},
                  {"cpu", "the processor"},
                  {"cuda", "an NVIDIA GPU"}}),
           "what computes"),
      text(FIELD(algorithms), TextRule::optional_path,
           "table of algorithms for CUDA's matrix products, made by dither tune; empty: the library's first choice"),
      integer(FIELD(steps), {1, kMaxSteps}, "optimizer steps of the whole run").needed(),
      directive("vary", KeyType::variation, "for dither compare: lists of values for other keys; their product is run"),
  };
}

std::vector<Key> model_keys() {
  return {
      word(FIELD(model.preset), preset_words(), "a published model; keys given beside it override its values"),
      word(FIELD(model.architecture), words({{"gpt2", "GPT-2"}, {"llama", "Llama, Qwen"}}),
           "family: defaults of the keys below, names and layout of exported weights")
          .by("the preset's, else llama"),
      integer(FIELD(model.layers), {1, 1024}, "transformer blocks").by(kDimension),
      integer(FIELD(model.hidden), {8, 65536, 8}, "width of the residual stream").by(kDimension),
      integer(FIELD(model.heads), {1, 1024}, "attention heads").by(kDimension),
      integer(FIELD(model.kv_heads), {1, 1024}, "key and value heads, a divisor of heads")
          .by("the preset's, else heads"),
      integer(FIELD(model.head_size), {32, 128, 16}, "width of one head: 32 48 64 80 96 112 128").by("hidden / heads"),
      integer(FIELD(model.ffn), {8, kMaxWidth, 8}, "inner width of the feed-forward layer").by(kDimension),
      integer(FIELD(model.vocabulary), {2, kMaxVocabulary}, "tokens that count; storage is padded to a multiple of 64")
          .by(kDimension),
      integer(FIELD(model.sequence_length), {1, kMaxSequence}, "tokens of one sequence").by(kDimension),
      word(FIELD(model.normalization),
           words({{"layer_norm", "mean and variance, gain and bias"}, {"rms_norm", "root mean square, gain"}}),
           "in front of attention, feed-forward layer and head"),
      real(FIELD(model.norm_epsilon), {kLeast, 1}, "added to the variance or mean square"),
      word(FIELD(model.positions),
           words({{"learned", "an embedding for each position"}, {"rotary", "queries and keys are rotated"}}),
           "how a token knows its place"),
      real(FIELD(model.rotary_base), {1, kMost}, "base of the rotary frequencies"),
      word(FIELD(model.rotary_scaling),
           words({{"none", "frequencies as they are"}, {"llama3", "low frequencies divided by rotary_factor"}}),
           "stretches rotary frequencies for long contexts"),
      real(FIELD(model.rotary_factor), {1, kMost}, "llama3: divisor of low frequencies"),
      real(FIELD(model.rotary_low_frequency), {kLeast, kMost},
           "llama3: turns in rotary_original_length up to which the whole factor applies"),
      real(FIELD(model.rotary_high_frequency), {kLeast, kMost}, "llama3: turns from which none of it applies"),
      integer(FIELD(model.rotary_original_length), {1, kMaxSequence}, "llama3: context before the stretch"),
      word(FIELD(model.activation), words({{"gelu", "GELU in its tanh form"}, {"swiglu", "gated SiLU"}}),
           "of the feed-forward layer"),
      boolean(FIELD(model.linear_bias), "biases of all linear layers but the head"),
      boolean(FIELD(model.qkv_bias), "a bias of the query, key and value projection alone"),
      boolean(FIELD(model.qk_norm), "RMS norm of each query and key head before rotation"),
      boolean(FIELD(model.tied_embeddings), "the head is the token embedding"),
      real(FIELD(model.init_std), {0, 10},
           "standard deviation of initial weights; residual projections / sqrt(2 layers)"),
  };
}

std::vector<Key> data_and_precision_keys() {
  return {
      text(FIELD(data.train), TextRule::path, "path or glob of token shards").needed(),
      text(FIELD(data.validation), TextRule::optional_path, "the same for validation; empty: none"),
      integer(FIELD(data.ignore_token), {-1, 2147483647},
              "targets equal to it do not count in the loss; -1: all count"),
      integer(FIELD(batch.tokens_per_step), {1, kMaxTokensPerStep},
              "tokens between two updates, a multiple of micro_batch_size * sequence_length")
          .by("one micro-batch"),
      integer(FIELD(batch.micro_batch_size), {1, 65536}, "sequences that a rank computes at once"),
      word(FIELD(precision.strategy), strategy_words(), "how weights and moments are stored and written"),
      word(FIELD(precision.first_moment), float_words(), "storage of the first moment; a choice under split32 alone")
          .by(kByStrategy),
      word(FIELD(precision.second_moment), float_words(), "storage of the second moment; a choice under split32 alone")
          .by(kByStrategy),
      word(FIELD(precision.first_moment_rounding), words(kRoundings), "of a first moment stored as BF16"),
      word(FIELD(precision.second_moment_rounding), words(kRoundings), "of a second moment stored as one BF16"),
      word(FIELD(precision.math),
           words({{"fp32", "FP32 registers, rounded once when stored"},
                  {"bf16", "every operation rounded to BF16; only where all states are BF16"}}),
           "in what the update is computed"),
      word(FIELD(precision.gradient),
           words({{"bf16_sr", "BF16, stochastic rounding"},
                  {"fp32", "FP32"},
                  {"bf16", "BF16, round to nearest: small contributions are lost"}}),
           "how gradients are summed over micro-batches")
          .by("by precision.strategy: bf16_sr or fp32, docs/strategies.md"),
      word(FIELD(precision.residual), float_words(), "storage of the residual stream")
          .by("the type of the weights: fp32 under fp32 and mixed_autocast, else bf16"),
      word(FIELD(precision.compute), float_words(),
           "activations and matrix products; a choice under mixed_autocast alone")
          .by("by precision.strategy: fp32 under fp32, else bf16"),
      word_list(FIELD(precision.fp32_parameters),
                words({{"norm", "gains and biases of the norms"},
                       {"bias", "biases of the linear layers"},
                       {"embedding", "token and position embeddings"}}),
                "tensors that keep FP32 weights and moments under any strategy"),
  };
}

std::vector<Key> optimizer_keys() {
  return {
      real(FIELD(optimizer.learning_rate), {kLeast, 1000}, "largest learning rate of the schedule"),
      pair(FIELD(optimizer.betas), {0, 1, true, true}, "decay of the first and of the second moment at each step"),
      real(FIELD(optimizer.epsilon), {kLeast, 1}, "added to the root of the second moment"),
      real(FIELD(optimizer.weight_decay), {0, 1000},
           "share of the weight, times learning rate, taken off at each step"),
      boolean(FIELD(optimizer.decay_embeddings), "decay embeddings too; gains and biases never decay"),
      real(FIELD(optimizer.gradient_clip), {0, kMost}, "largest global norm of the gradient; 0: no clipping"),
      word(FIELD(optimizer.schedule.kind),
           words({{"constant", "stays"},
                  {"linear", "falls in a line from warm-up to the last step"},
                  {"cosine", "falls in half a cosine"},
                  {"wsd", "stays, then falls over decay_fraction as decay_shape says"}}),
           "course of the learning rate after warm-up"),
      integer(FIELD(optimizer.schedule.start_step), {0, kMaxSteps},
              "step after which the schedule begins, with warm-up, for a run that resumes there; 0: at the first step"),
      integer(FIELD(optimizer.schedule.warmup_steps), {0, kMaxSteps}, "steps in which the learning rate rises from 0"),
      real(FIELD(optimizer.schedule.final_fraction), {0, 1}, "of the learning rate, reached at the last step"),
      real(FIELD(optimizer.schedule.decay_fraction), {0, 1}, "wsd: share of all steps that the final fall takes"),
      word(FIELD(optimizer.schedule.decay_shape),
           words({{"linear", "in a line"}, {"1-sqrt", "as 1 - the root of the share of the fall that is done"}}),
           "wsd: how the learning rate falls at the end"),
  };
}

std::vector<Key> parallel_keys() {
  return {
      integer(FIELD(parallel.threads), {0, 1024},
              "CPU threads of a process; 0: as many as it may use, see parallel.md"),
      integer(FIELD(parallel.zero_stage), {0, 3},
              "what ranks share out: 1 optimizer state, 2 gradients too, 3 weights too; 0: each has all"),
      integer(FIELD(parallel.shard_group_size), {0, kMaxRanks},
              "consecutive ranks that share out one copy, a divisor of all ranks (a node's GPUs: hybrid sharding); 0: "
              "all ranks"),
      word(FIELD(parallel.reduction),
           words({{"bf16", "summed in BF16"},
                  {"fp32", "summed in FP32"},
                  {"ordered",
                   "added in the order of micro-batches: the same bits on any number of ranks, at any stage"}}),
           "how gradients are summed over ranks"),
      word(FIELD(parallel.wire), float_words(), "in what gradients travel between ranks; a choice under ordered alone")
          .by("bf16 under reduction bf16, else fp32"),
      word(FIELD(parallel.transport),
           words({{"auto", "nccl between GPUs; between CPUs mpi under mpirun, else host"},
                  {"nccl", "NCCL, one GPU a rank"},
                  {"mpi", "MPI, CPU ranks"},
                  {"host", "shared memory, ranks of one node"},
                  {"none", "one rank"}}),
           "what carries data between ranks"),
      integer(FIELD(parallel.device_index), {-1, 1023}, "GPU of this process; -1: the local rank's"),
      boolean(FIELD(parallel.share_device), "several ranks may use one GPU (through transport host)"),
      integer(FIELD(parallel.timeout_seconds), {1, 1000000}, "a rank without progress for so long ends the job"),
  };
}

std::vector<Key> checkpoint_keys() {
  return {
      integer(FIELD(checkpoint.every_steps), {0, kMaxSteps},
              "steps between checkpoints; 0: none by steps, and with every_minutes 0 none at all"),
      real(FIELD(checkpoint.every_minutes), {0, kMaxMinutes}, "minutes between checkpoints; 0: none by time"),
      integer(FIELD(checkpoint.keep_last), {1, kMaxSteps}, "newest checkpoints that stay"),
      integer(FIELD(checkpoint.keep_every), {0, kMaxSteps},
              "besides, checkpoints of steps that are multiples of it stay for ever; 0: none"),
      boolean(FIELD(checkpoint.async),
              "write from a copy in host memory while training goes on; false: training waits for the disk"),
      word(FIELD(checkpoint.on_signal),
           words({{"exit", "SIGTERM, SIGINT, SIGHUP and SIGUSR1 save and end the run with status 0"},
                  {"continue", "SIGUSR1 saves and training goes on, SIGTERM, SIGINT and SIGHUP save and end the run"}}),
           "what a signal does after the step at hand; without checkpoints nothing is saved"),
      text(FIELD(checkpoint.resume), TextRule::path,
           "checkpoint to begin at: auto, the newest good one in the run's folder; never, none; else the path of a "
           "checkpoint, or of a run's folder for the newest good one there"),
      boolean(FIELD(checkpoint.allow_strategy_change),
              "convert a checkpoint that another precision section wrote; false: it is refused"),
      real(FIELD(checkpoint.retry_seconds), {0, kMaxRetrySeconds},
           "seconds for which the last checkpoint and the weights are tried again while the disk is full"),
  };
}

std::vector<Key> remaining_keys() {
  return {
      integer(FIELD(evaluation.every_steps), {0, kMaxSteps}, "steps between validations; 0: only at the end"),
      integer(FIELD(evaluation.tokens), {0, kMaxValidation},
              "targets that one validation judges, in segments spaced evenly over the set; 0: the whole set"),
      integer(FIELD(sampling.every_steps), {0, kMaxSteps}, "steps between text samples; 0: none"),
      text(FIELD(sampling.prompt), TextRule::any, "text that a sample continues"),
      integer(FIELD(sampling.tokens), {1, kMaxSequence}, "length of a sample"),
      real(FIELD(sampling.temperature), {0, 1000}, "divides the logits; 0: always the likeliest token"),
      integer(FIELD(sampling.top_k), {0, kMaxVocabulary}, "only the k likeliest tokens; 0: all"),
      real(FIELD(sampling.top_p), {0, 1, true}, "only the likeliest tokens that make up this probability; 1: all"),
      integer(FIELD(guards.stop_after_skips), {1, kMaxSteps}, "skipped steps in a row that end the run"),
      integer(FIELD(guards.window), {2, 65536}, "steps that the z-scores look back on"),
      real(FIELD(guards.loss_z), {0, kMost}, "skip a step whose loss is more deviations above the mean; 0: never"),
      real(FIELD(guards.gradient_z), {0, kMost}, "the same for the gradient norm"),
      text(FIELD(logging.directory), TextRule::path, "folder of all runs; a run has the folder directory/name"),
      integer(FIELD(logging.every_steps), {1, kMaxSteps}, "steps between lines on the terminal; metrics.jsonl has all"),
      integer(FIELD(logging.measure_every_steps), {0, kMaxSteps},
              "steps between EDQ, imprecision and norms by group; 0: never"),
  };
}

}  // namespace

const std::vector<Key>& key_table() {
  static const std::vector<Key> table = [] {
    std::vector<Key> all;
    for (const auto& part : {reading_and_run_keys(), model_keys(), data_and_precision_keys(), optimizer_keys(),
                             parallel_keys(), checkpoint_keys(), remaining_keys()}) {
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }();
  return table;
}

const Key* find_key(const std::string& path) {
  for (const Key& key : key_table()) {
    if (key.path == path) return &key;
  }
  return nullptr;
}

bool is_section(const std::string& path) {
  const std::string start = path.empty() ? "" : path + ".";
  return std::any_of(key_table().begin(), key_table().end(), [&start](const Key& key) {
    return key.path.size() > start.size() && key.path.compare(0, start.size(), start) == 0;
  });
}

}  // namespace dither
