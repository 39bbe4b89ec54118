// A run's checkpoints while it trains: when one is due, the way of each rank's shard from memory to the disk, and the
// steps in which ranks agree that it is whole.
//
//   save()        all ranks, between two steps: rank 0 makes the partial folder; each rank copies its shard to host
//                 memory and goes on, a thread of its own writes and syncs the file (checkpoint.async false: written at
//                 once, from backend memory, without the copy)
//   steps         StepSigns::shard_written rides on their sums; when it reaches the number of ranks, all of them
//                 know in the same step
//   conclude()    what the ranks wrote is gathered; on rank 0 a thread writes the manifest and renames the folder,
//                 then reads the checkpoint back, and only if it is good removes old ones
//
// A failure anywhere costs this checkpoint and nothing else: it is reported, and the next one is tried when it is due.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <optional>
#include <string>
#include <utility>  // move
#include <vector>

#include "src/checkpoint/checkpoint_folder.h"
#include "src/checkpoint/file_system.h"
#include "src/checkpoint/shard.h"
#include "src/parallel/control.h"
#include "src/training/engine.h"
#include "src/training/metrics.h"  // CheckpointEvent
#include "src/training/trainer.h"

namespace dither {

class Checkpoints {
 public:
  /// `folder`: runs/<name>/checkpoints; `data`: what manifests know the training data by. All must outlive this. All
  /// ranks make one.
  Checkpoints(Engine& engine, Control& control, FileSystem& files, std::string folder, std::string data);
  /// Waits for what is being written; what is not concluded stays a partial folder.
  ~Checkpoints();

  /// Called on rank 0 before a checkpoint is begun; an Error that it throws refuses the checkpoint.
  void before_begin(std::function<void()> body) { before_begin_ = std::move(body); }
  /// Called on rank 0, from another thread, before a checkpoint gets its name: what must not be older than it.
  void before_commit(std::function<void()> body) { before_commit_ = std::move(body); }

  /// What the next step shall say of this rank.
  bool shard_written() const;
  bool due_by_time() const;  // on rank 0; elsewhere never

  /// Behind each step, all ranks. Saves if one is due at this step or was asked for with it.
  void after_step(const StepResult& result, const TrainingState& state);
  /// Between two pieces of an evaluation or a sample, all ranks: so many of them have written their shards.
  void between_pieces(int64_t shards_written);
  /// At the end: waits until all is on the disk. `last_state`: saves that too, unless it has been. May be called again
  /// when that has failed.
  void finish(const TrainingState& state, bool last_state);
  /// Why the newest attempt has failed, on rank 0; "" : it has not.
  const std::string& failure() const { return failure_; }
  /// Whether that was a full disk, which may have room later.
  bool is_disk_full() const { return disk_full_; }

  /// The step of the newest state that this run has saved or begun to, or was resumed from; 0: none.
  int64_t newest_step() const { return newest_step_; }
  void resumed_from(int64_t step) { newest_step_ = step; }

  /// What has come of attempts since the last call; rank 0 has something to tell.
  std::vector<CheckpointEvent> take_events();
  /// That checkpoints cannot be written beside training, once; "" : nothing.
  std::string take_warning();

 private:
  using Clock = std::chrono::steady_clock;
  struct WrittenShard {
    ShardRecord record;
    double seconds;
  };
  /// A checkpoint under way, on every rank until it is concluded.
  struct Attempt {
    TrainingState state;
    NewCheckpoint folder;
    Clock::time_point begin = Clock::now();
    std::future<WrittenShard> shard;
    double copy_seconds = 0, stall_seconds = 0;
  };
  /// What rank 0 does behind it.
  struct Commit {
    CheckpointEvent event;
    std::future<double> named;  // it is whole, so many seconds after the attempt began
    std::future<void> cleaned;  // it has been read back, and old ones are gone
  };

  static std::future<WrittenShard> failed_shard(const std::string& why);
  bool beside_training();
  void reserve();
  void save(const TrainingState& state);
  void conclude();
  void start_commit(const Attempt& attempt, Manifest manifest, double write_seconds, Clock::time_point begin);
  void await_commit();
  void clean(const Manifest& manifest, const std::string& path);
  void harvest();
  void fail(int64_t step, const std::string& error, bool disk_full);
  std::string path_of(int64_t step) const { return folder_ + "/" + checkpoint_name(step); }

  Engine& engine_;
  Control& control_;
  FileSystem& files_;
  const std::string folder_;
  const std::string data_;
  const CheckpointConfig& config_;
  std::function<void()> before_begin_, before_commit_;
  Shard shard_;
  int64_t all_bytes_ = 0;                 // of a checkpoint
  std::atomic<bool> waited_for_ = false;  // the main thread waits for the writer: its progress counts
  std::future<void> reserved_;            // the memory of the copy
  std::optional<Attempt> attempt_;
  std::optional<Commit> commit_;
  std::vector<CheckpointEvent> events_;
  std::optional<bool> beside_;  // whether they are written beside training, once it is known
  std::string warning_;
  int64_t newest_step_ = 0;
  std::string failure_;
  bool disk_full_ = false;
  Clock::time_point last_save_ = Clock::now();
};

}  // namespace dither
