// Samples to batches, and the prefetching thread: see loader.h.
#include "src/data/loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "base/counted.h"
#include "base/error.h"
#include "src/data/coverage.h"  // windows_in()
#include "src/data/permutation.h"

namespace dither {

LoaderOptions loader_options(const Config& config) {
  return {.seed = config.seed,
          .sequence_length = config.model.sequence_length,
          .micro_batch_size = config.batch.micro_batch_size,
          .vocabulary = config.model.vocabulary,
          .ignore_token = config.data.ignore_token};
}

Loader::Loader(const TokenShards& shards, const LoaderOptions& options) : shards_(shards), options_(options) {
  const int64_t T = options.sequence_length, B = options.micro_batch_size;
  DITHER_ASSERT(T > 0 && B > 0);
  DITHER_ASSERT(options.vocabulary > 0 && options.vocabulary <= std::numeric_limits<int32_t>::max());
  DITHER_ASSERT(options.ignore_token >= -1 && options.ignore_token < options.vocabulary);

  first_window_.push_back(0);
  int64_t longest = 0;
  for (int64_t shard = 0; shard < shards.shards(); ++shard) {
    const int64_t tokens = shards.tokens(shard);
    longest = std::max(longest, tokens);
    first_window_.push_back(first_window_.back() + windows_in(tokens, T));
  }
  if (samples_per_epoch() == 0) {
    throw Error(
        fmt::format("{}: shorter than one sequence: the longest of {} has {}, but a sample needs {} "
                    "(model.sequence_length {} and the target of its last token); prepare more text or lower "
                    "model.sequence_length",
                    shards.pattern(), counted(shards.shards(), "shard"), counted(longest, "token"), T + 1, T));
  }
  for (Batch* batch : {&current_, &next_}) {  // both in full now: no step allocates
    batch->tokens.resize(B * T);
    batch->targets.resize(B * T);
    batch->window.resize(T + 1);
  }
}

Loader::~Loader() {
  if (!worker_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  worker_.join();
}

Loader::Window Loader::window_of(int64_t sample) const {
  DITHER_ASSERT(sample >= 0);
  const int64_t windows = samples_per_epoch();
  const int64_t window = permuted(sample % windows, windows, options_.seed, sample / windows);
  // The last shard that begins at or before the window; shards without a window begin where their successor does.
  const auto after = std::upper_bound(first_window_.begin(), first_window_.end(), window);
  const int64_t shard = after - first_window_.begin() - 1;
  return {shard, (window - first_window_[shard]) * options_.sequence_length};
}

void Loader::fill(Batch& batch, int64_t first_sample) const {
  const int64_t T = options_.sequence_length;
  batch.counted_targets = options_.micro_batch_size * T;
  for (int64_t b = 0; b < options_.micro_batch_size; ++b) {
    const Window window = window_of(first_sample + b);
    int32_t* tokens = batch.tokens.data() + b * T;
    int32_t* targets = batch.targets.data() + b * T;
    shards_.read(window.shard, window.first_token, T + 1, options_.vocabulary, batch.window.data());
    std::copy_n(batch.window.begin(), T, tokens);
    std::copy_n(batch.window.begin() + 1, T, targets);
    if (options_.ignore_token < 0) continue;
    batch.counted_targets -= std::count(targets, targets + T, options_.ignore_token);
    std::replace(targets, targets + T, options_.ignore_token, kIgnoredTarget);
  }
}

const Batch& Loader::load(int64_t first_sample) {
  {
    std::unique_lock lock(mutex_);
    if (state_ != Prefetch::none && next_sample_ == first_sample) {
      changed_.wait(lock, [this] { return state_ == Prefetch::ready; });
      state_ = Prefetch::none;
      if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
      std::swap(current_, next_);
      return current_;
    }
  }
  fill(current_, first_sample);  // outside the lock: a prefetch of another batch may go on meanwhile
  return current_;
}

void Loader::prefetch(int64_t first_sample) {
  if (!worker_.joinable()) worker_ = std::thread([this] { run_prefetches(); });
  {
    std::unique_lock lock(mutex_);
    if (state_ != Prefetch::none && next_sample_ == first_sample) return;
    changed_.wait(lock, [this] { return state_ != Prefetch::wanted; });  // the worker still writes another batch
    next_sample_ = first_sample;
    state_ = Prefetch::wanted;
  }
  changed_.notify_all();
}

void Loader::run_prefetches() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || state_ == Prefetch::wanted; });
    if (stopping_) return;
    const int64_t sample = next_sample_;
    lock.unlock();
    std::exception_ptr error;
    try {
      fill(next_, sample);
    } catch (...) {
      error = std::current_exception();  // load() rethrows it in the caller's thread
    }
    lock.lock();
    error_ = std::move(error);
    state_ = Prefetch::ready;
    changed_.notify_all();
  }
}

int64_t Loader::count_targets(int64_t first_sample, int64_t samples) const {
  const int64_t T = options_.sequence_length;
  int64_t counted = samples * T;
  if (options_.ignore_token < 0) return counted;
  for (int64_t sample = first_sample; sample < first_sample + samples; ++sample) {
    const Window window = window_of(sample);
    counted -= shards_.count_of(window.shard, window.first_token + 1, T, options_.ignore_token);
  }
  return counted;
}

}  // namespace dither
