// Training samples from token shards, and the thread that fetches the next ones.
//
// A sample is a window of T + 1 tokens: window w of a shard covers tokens [wT, wT + T]; the first T are the input, the
// last T the targets. Windows share one token with their neighbour, cross no shard, and leave each shard's last
// (tokens - 1) mod T tokens unused.
// Sample s is window permuted(s mod windows) of epoch s / windows (permutation.h): a pure function of (seed, s). So the
// loader's whole state is the number of samples consumed, and neither micro-batch size nor the number of ranks changes
// what sample s is. Validation reads shards in another way (validation_set.h).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/operations/loss.h"  // kIgnoredTarget
#include "src/config/config.h"
#include "src/data/token_shards.h"

namespace dither {

struct Batch {
  std::vector<int32_t> tokens;   // [B,T]
  std::vector<int32_t> targets;  // [B,T] the token that follows, or kIgnoredTarget
  int64_t counted_targets = 0;   // targets that are not kIgnoredTarget
  std::vector<int32_t> window;   // [T + 1] one sample as it was read
};

struct LoaderOptions {
  uint64_t seed = 0;
  int64_t sequence_length = 0;   // T
  int64_t micro_batch_size = 0;  // B
  int64_t vocabulary = 0;        // token ids must lie below it
  int32_t ignore_token = -1;     // targets equal to it are not counted in the loss; -1: all are
};

/// The options that a config asks for.
LoaderOptions loader_options(const Config& config);

/// All methods belong to one thread; the loader keeps a second thread of its own for prefetch().
class Loader {
 public:
  /// `shards` must outlive the loader. Throws Error if no shard holds a whole sample.
  Loader(const TokenShards& shards, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// Samples [first_sample, first_sample + B); valid until the next load(). Throws DataError for a token outside
  /// the vocabulary and for what cannot be read, also when prefetch() met it.
  const Batch& load(int64_t first_sample);

  /// Starts to read the batch that load(first_sample) will be asked for; returns at once. A prefetched batch that
  /// nobody asks for is dropped at the next prefetch().
  void prefetch(int64_t first_sample);

  /// Targets that count in samples [first_sample, first_sample + samples): the N that a step's loss is divided by.
  int64_t count_targets(int64_t first_sample, int64_t samples) const;

  /// Windows in the corpus: the samples after which an epoch ends.
  int64_t samples_per_epoch() const { return first_window_.back(); }

 private:
  struct Window {
    int64_t shard, first_token;
  };
  enum class Prefetch { none, wanted, ready };

  Window window_of(int64_t sample) const;
  void fill(Batch& batch, int64_t first_sample) const;
  void run_prefetches();

  const TokenShards& shards_;
  const LoaderOptions options_;
  std::vector<int64_t> first_window_;  // [shards + 1] number of each shard's first window; the last entry is the total
  Batch current_;                      // what load() returned; only the caller's thread touches it

  std::mutex mutex_;  // guards all below; `next_` belongs to the worker while wanted, to the caller otherwise
  std::condition_variable changed_;
  Prefetch state_ = Prefetch::none;
  bool stopping_ = false;
  int64_t next_sample_ = 0;
  Batch next_;
  std::exception_ptr error_;  // what the worker met while filling `next_`
  std::thread worker_;        // started by the first prefetch()
};

}  // namespace dither
