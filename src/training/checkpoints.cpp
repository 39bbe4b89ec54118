#include "src/training/checkpoints.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <exception>
#include <functional>
#include <new>           // bad_alloc
#include <system_error>  // of threads
#include <utility>       // exchange, move

#include "base/commit.h"
#include "base/error.h"
#include "base/free_memory.h"
#include "base/words.h"
#include "src/training/node_memory.h"

namespace dither {

namespace {

constexpr char kFailed = '!', kFull = '#';  // before the message of a rank that could not write: why

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Linux counts niceness by thread: where cores are few, they compute first. A wish, so nobody looks whether it came
/// true.
void step_back() {
  constexpr int kNice = 10;
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNice);
}

template <class Result>
bool is_ready(const std::future<Result>& future) {
  return future.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

}  // namespace

Checkpoints::Checkpoints(Engine& engine, Control& control, FileSystem& files, std::string folder, std::string data)
    : engine_(engine),
      control_(control),
      files_(files),
      folder_(std::move(folder)),
      data_(std::move(data)),
      config_(engine.config().checkpoint),
      shard_(state_pieces(engine.table(), engine.optimizer(), engine.partition().copy(), engine.partition().copies()),
             engine.backend(), engine.stream()) {
  for (const std::string& bytes : control.all_gather(std::to_string(shard_.bytes()))) all_bytes_ += std::stoll(bytes);
}

Checkpoints::~Checkpoints() = default;  // futures of threads wait for them

bool Checkpoints::shard_written() const { return attempt_ && is_ready(attempt_->shard); }

bool Checkpoints::due_by_time() const {
  return control_.rank() == 0 && config_.every_minutes > 0 && seconds_since(last_save_) >= 60 * config_.every_minutes;
}

void Checkpoints::after_step(const StepResult& result, const TrainingState& state) {
  if (!config_.enabled()) return;
  if (attempt_ && result.shards_written == control_.size()) conclude();
  harvest();
  if (!beside_ && beside_training()) reserve();
  if (result.save || (config_.every_steps > 0 && state.step % config_.every_steps == 0)) save(state);
}

void Checkpoints::between_pieces(int64_t shards_written) {
  if (attempt_ && shards_written == control_.size()) conclude();
}

// A checkpoint that came to nothing at its very end is known to have failed on rank 0 alone: all ask it.
void Checkpoints::finish(const TrainingState& state, bool last_state) {
  if (!config_.enabled()) return;
  if (attempt_) conclude();
  await_commit();
  if (!control_.broadcast(failure_).empty()) newest_step_ = 0;
  if (last_state && state.step > 0 && state.step != newest_step_) save(state);
  if (attempt_) conclude();
  await_commit();
}

std::vector<CheckpointEvent> Checkpoints::take_events() { return std::exchange(events_, {}); }

std::string Checkpoints::take_warning() {
  std::string warning = std::exchange(warning_, {});
  const std::string of_disk = files_.take_warning();
  return warning + (warning.empty() || of_disk.empty() ? "" : "\n") + of_disk;
}

/// Whether checkpoints are written beside training: as the config says, where every rank has the memory for its copy.
/// Asked behind the first step: by then all of the run's own memory is in use. All ranks.
bool Checkpoints::beside_training() {
  if (!config_.async) return false;
  if (beside_) return *beside_;
  beside_ = true;
  for (const std::string& lack : memory_lacks(control_, shard_.bytes(), free_memory())) {
    if (lack.empty()) continue;
    beside_ = false;
    warning_ =
        fmt::format("checkpoint.async: for copies of the state {}: checkpoints are written while training waits", lack);
  }
  return *beside_;
}

/// The first checkpoint shall not wait for its memory. At full priority: a system may take seconds to give it, and it
/// has to be there by then.
void Checkpoints::reserve() {
  try {
    reserved_ = std::async(std::launch::async, [this] { shard_.reserve(); });
  } catch (const std::system_error&) {  // no thread: then with the first copy
  }
}

// One checkpoint at a time: what is under way comes to its end first.
void Checkpoints::save(const TrainingState& state) {
  const Clock::time_point begin = Clock::now();
  control_.phase(fmt::format("checkpoint of step {}", state.step));
  if (attempt_) conclude();
  await_commit();
  last_save_ = begin;
  const bool beside = beside_training();
  NewCheckpoint folder(files_, path_of(state.step));
  std::string refused;
  bool full = false;
  if (control_.rank() == 0) {
    try {
      if (before_begin_) before_begin_();
      folder.begin(all_bytes_);
    } catch (const DiskFull& e) {
      refused = e.what();
      full = true;
    } catch (const std::exception& e) {
      refused = words_of(e);
    }
  }
  refused = control_.broadcast(refused);
  if (!refused.empty()) return fail(state.step, refused, full);

  newest_step_ = state.step;
  attempt_.emplace(Attempt{.state = state, .folder = folder, .begin = begin, .shard = {}});
  const auto write = [this, beside, partial = folder.partial()] {
    const Clock::time_point start = Clock::now();
    ShardRecord record = shard_.write(files_, partial, shard_name(control_.rank()), beside, [this] {
      if (waited_for_) control_.at_work();
    });
    return WrittenShard{std::move(record), seconds_since(start)};
  };
  if (beside) {
    try {
      if (reserved_.valid()) reserved_.get();
      const Clock::time_point copy = Clock::now();
      shard_.copy_to_host();
      attempt_->copy_seconds = seconds_since(copy);
      attempt_->shard = std::async(std::launch::async, [write] {
        step_back();
        return write();
      });
    } catch (const std::bad_alloc&) {
      attempt_->shard =
          failed_shard(fmt::format("{} bytes of host memory cannot be had for the copy\n       cure: "
                                   "checkpoint.async=false",
                                   shard_.bytes()));
    } catch (const std::system_error& e) {
      attempt_->shard = failed_shard(fmt::format("no thread can be started to write it: {}", e.what()));
    }
    attempt_->stall_seconds = seconds_since(begin);
    return;
  }
  waited_for_ = true;
  std::packaged_task<WrittenShard()> task(write);
  attempt_->shard = task.get_future();
  task();
  waited_for_ = false;
  conclude();
}

/// As if writing had failed: it is told when all ranks conclude.
std::future<Checkpoints::WrittenShard> Checkpoints::failed_shard(const std::string& why) {
  std::promise<WrittenShard> failed;
  failed.set_exception(std::make_exception_ptr(Error(why)));
  return failed.get_future();
}

/// All ranks, each of which has written its shard or is to wait until it has.
void Checkpoints::conclude() {
  const Clock::time_point begin = Clock::now();
  Attempt attempt = std::move(*attempt_);
  attempt_.reset();
  const int64_t step = attempt.state.step;
  control_.phase(fmt::format("end of the checkpoint of step {}", step));
  std::string mine;
  double write_seconds = 0;
  waited_for_ = true;
  try {
    const WrittenShard written = attempt.shard.get();
    mine = to_text(written.record);
    write_seconds = written.seconds;
  } catch (const DiskFull& e) {
    mine = kFull + std::string(e.what());
  } catch (const std::exception& e) {
    mine = kFailed + words_of(e);
  }
  waited_for_ = false;
  const std::vector<std::string> texts = control_.all_gather(mine);
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    if (texts[rank][0] != kFailed && texts[rank][0] != kFull) continue;
    newest_step_ = 0;
    if (control_.rank() == 0) attempt.folder.discard();
    const std::string whose = texts.size() > 1 ? fmt::format("rank {}: ", rank) : "";
    return fail(step, whose + texts[rank].substr(1), texts[rank][0] == kFull);
  }
  if (control_.rank() != 0) return;
  Manifest manifest;
  for (const std::string& text : texts) manifest.shards.push_back(parse_shard_record(text));
  manifest.training = attempt.state;
  manifest.config = to_json(engine_.config());
  manifest.commit = dither::commit();
  manifest.arithmetic = engine_.backend().arithmetic();
  manifest.algorithms = engine_.backend().algorithms();
  manifest.data = data_;
  manifest.ranks = control_.size();
  start_commit(attempt, std::move(manifest), write_seconds, begin);
}

/// On rank 0. Without checkpoint.async the name is there when this returns; reading back is never waited for.
void Checkpoints::start_commit(const Attempt& attempt, Manifest manifest, double write_seconds,
                               Clock::time_point begin) {
  CheckpointEvent event;
  event.step = attempt.state.step;
  event.path = attempt.folder.path();
  event.copy_seconds = attempt.copy_seconds;
  event.write_seconds = write_seconds;
  for (const ShardRecord& shard : manifest.shards) event.bytes += shard.bytes;
  std::promise<double> named;
  commit_.emplace(Commit{.event = event, .named = named.get_future(), .cleaned = {}});
  auto work = [this, manifest = std::move(manifest), folder = attempt.folder, since = attempt.begin,
               named = std::move(named)]() mutable {
    step_back();
    try {
      if (before_commit_) before_commit_();
      folder.commit(manifest);
      named.set_value(seconds_since(since));
    } catch (...) {
      folder.discard();
      named.set_exception(std::current_exception());
      return;
    }
    clean(manifest, folder.path());
  };
  commit_->cleaned = std::async(std::launch::async, std::move(work));
  const bool beside = beside_training();  // asked before
  if (!beside) commit_->named.wait();
  commit_->event.stall_seconds = attempt.stall_seconds + seconds_since(beside ? begin : attempt.begin);
}

/// In the background: old checkpoints go, if this one is good as the disk has it.
void Checkpoints::clean(const Manifest& manifest, const std::string& path) {
  const auto progress = [this] {
    if (waited_for_) control_.at_work();
  };
  verify_shards(path, read_manifest(path), ReadFrom::disk, 0, 1, progress);
  // Later ones are none of this run's: it was resumed behind them, since they are damaged.
  std::vector<CheckpointEntry> entries = list_checkpoints(folder_);
  while (!entries.empty() && entries.back().step > manifest.training.step) entries.pop_back();
  for (const CheckpointEntry& entry : outdated(entries, config_.keep_last, config_.keep_every)) {
    remove_checkpoint(files_, entry);
  }
}

void Checkpoints::await_commit() {
  if (!commit_) return;
  const Clock::time_point begin = Clock::now();
  waited_for_ = true;
  commit_->cleaned.wait();
  waited_for_ = false;
  commit_->event.stall_seconds += seconds_since(begin);
  harvest();
}

/// Takes in what the background has brought to its end.
void Checkpoints::harvest() {
  if (!commit_ || !is_ready(commit_->cleaned)) return;
  Commit done = std::move(*commit_);
  commit_.reset();
  try {
    done.event.seconds = done.named.get();
    failure_.clear();
  } catch (const DiskFull& e) {
    return fail(done.event.step, e.what(), true);
  } catch (const std::exception& e) {
    return fail(done.event.step, words_of(e), false);
  }
  try {
    done.cleaned.get();
  } catch (const std::exception& e) {
    done.event.error = words_of(e);  // it has its name, but does not read back well, or old ones do not go
  }
  events_.push_back(done.event);
}

void Checkpoints::fail(int64_t step, const std::string& error, bool disk_full) {
  if (control_.rank() != 0) return;
  failure_ = error;
  disk_full_ = disk_full;
  CheckpointEvent event;
  event.step = step;
  event.error = error;
  events_.push_back(event);
}

}  // namespace dither
