// Checkpoints beside training: on a disk that takes its time, what is waited for and what is not, in which order things
// get their names, and what stays when a checkpoint does not read back as it was written.
#include "src/training/checkpoints.h"

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "tests/catch.h"
#include "tests/checkpoint/disk_beneath.h"
#include "tests/training/tiny_run.h"

namespace dither {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Steps = std::vector<int64_t>;
using std::chrono::milliseconds;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/// A disk whose shards are synced when the test lets them, and of which one may be another afterwards.
class SlowDisk final : public test::DiskBeneath {
 public:
  milliseconds delay{0};  // of each sync of a shard
  std::string damaged;    // a part of the path of a shard in which a bit is flipped once it is synced

  void close() { set(false); }
  void open() { set(true); }
  bool is_open() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return open_;
  }

  std::unique_ptr<OutputFile> create(const std::string& path) override {
    return std::make_unique<File>(*this, disk().create(path), path);
  }

 private:
  struct File final : OutputFile {
    File(SlowDisk& d, std::unique_ptr<OutputFile> f, std::string p) : all(d), file(std::move(f)), path(std::move(p)) {}
    void write(const void* data, int64_t bytes) override { file->write(data, bytes); }
    void sync() override {
      if (path.find(".safetensors") != std::string::npos) all.hold();
      file->sync();
      if (!all.damaged.empty() && path.find(all.damaged) != std::string::npos) flip();
    }
    void flip() const {
      std::fstream bytes(path, std::ios::binary | std::ios::in | std::ios::out);
      bytes.seekg(-1, std::ios::end);
      const int last = bytes.peek();
      bytes.seekp(-1, std::ios::end);
      bytes.put(static_cast<char>(last ^ 1));
    }
    SlowDisk& all;
    std::unique_ptr<OutputFile> file;
    std::string path;
  };

  void set(bool open) {
    const std::lock_guard<std::mutex> lock(mutex_);
    open_ = open;
    changed_.notify_all();
  }
  void hold() {
    std::this_thread::sleep_for(delay);
    std::unique_lock<std::mutex> lock(mutex_);
    // Training that waits for a disk which the test opens later would never end.
    constexpr std::chrono::seconds kPatience{20};
    if (!changed_.wait_for(lock, kPatience, [this] { return open_; })) throw Error("the disk was never opened");
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
};

/// Opens a disk after a while.
class Opener {
 public:
  Opener(SlowDisk& disk, milliseconds after)
      : thread_([&disk, after] {
          std::this_thread::sleep_for(after);
          disk.open();
        }) {}
  ~Opener() { thread_.join(); }

 private:
  std::thread thread_;
};

Config saving_config(const CheckpointConfig& checkpoint) {
  Config config = tiny_config(Strategy::bf16_sr);
  config.model.layers = 1;
  config.parallel.threads = 1;
  config.checkpoint = checkpoint;
  return config;
}

/// A run that saves.
class SavingRun {
 public:
  explicit SavingRun(const CheckpointConfig& checkpoint)
      : shards_(write_shard(place_.path() + "/train.bin", 4000, 61)),
        engine_(saving_config(checkpoint)),
        trainer_(engine_, shards_),
        control_(RankEnvironment{}) {
    engine_.initialise();
    checkpoints.emplace(engine_, control_, disk, folder(), "0123456789abcdef");
  }

  /// What a step is in the loop of training.
  void step(bool save = false) {
    const StepResult result = train();
    end_step(result, save);
  }
  StepResult train() {
    return trainer_.step([this] { return StepSigns{.shard_written = checkpoints->shard_written()}; });
  }
  void end_step(StepResult result, bool save = false) {
    result.save = save;
    checkpoints->after_step(result, trainer_.state());
    take_events();
  }
  void steps(int count) {
    for (int i = 0; i < count; ++i) step();
  }
  void finish(bool last_state = true) {
    checkpoints->finish(trainer_.state(), last_state);
    take_events();
  }

  std::string folder() const { return place_.path() + "/runs/a/checkpoints"; }
  std::string path_of(int64_t step) const { return folder() + "/" + checkpoint_name(step); }
  std::string shard_of(int64_t step) const {
    std::ifstream file(path_of(step) + "/" + shard_name(0), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  Steps listed() const {
    Steps steps;
    for (const CheckpointEntry& entry : list_checkpoints(folder())) steps.push_back(entry.step);
    return steps;
  }
  /// All that are listed, which must be whole.
  Steps verified() const {
    for (const CheckpointEntry& entry : list_checkpoints(folder())) {
      verify_shards(entry.path, read_manifest(entry.path), ReadFrom::cache);
    }
    return listed();
  }
  /// Names in the folder of checkpoints, finished or not.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder())) names.push_back(entry.path().filename());
    return names;
  }

  SlowDisk disk;
  std::optional<Checkpoints> checkpoints;
  std::vector<CheckpointEvent> events;

 private:
  void take_events() {
    for (const CheckpointEvent& event : checkpoints->take_events()) events.push_back(event);
  }

  const TemporaryFolder place_;
  const TokenShards shards_;
  Engine engine_;
  Trainer trainer_;
  Control control_;
};

void await(const std::function<bool()>& condition) {
  const Clock::time_point begin = Clock::now();
  while (!condition()) {
    REQUIRE(seconds_since(begin) < 20);
    std::this_thread::sleep_for(milliseconds(1));
  }
}

}  // namespace

// Catches: a save that waits for the disk, a copy that training goes on to change, a state of another step than its
// tensors, a checkpoint that has its name before it is written, a flag that rides before the file is synced.
TEST_CASE("steps go on while a checkpoint is written, and it holds the step at which it was due") {
  SavingRun slow({.every_steps = 3, .keep_last = 9}), sync({.every_steps = 3, .keep_last = 9, .async = false});
  slow.disk.close();
  slow.steps(5);
  REQUIRE(slow.listed().empty());
  REQUIRE(slow.events.empty());
  REQUIRE(slow.names() == std::vector<std::string>{"step-00000003.partial"});
  REQUIRE_FALSE(slow.checkpoints->shard_written());
  slow.disk.open();
  await([&] { return slow.checkpoints->shard_written(); });
  REQUIRE(slow.listed().empty());
  slow.steps(1);
  slow.finish();
  REQUIRE(slow.verified() == Steps{3, 6});

  sync.steps(3);
  REQUIRE(sync.listed() == Steps{3});  // at once
  sync.steps(3);
  sync.finish();
  for (const int64_t step : {3, 6}) {
    INFO(step);
    REQUIRE((slow.shard_of(step) == sync.shard_of(step)));
    REQUIRE(read_manifest(slow.path_of(step)).training.step == step);
    REQUIRE(read_manifest(slow.path_of(step)).training.samples == 8 * step);
  }
  REQUIRE((slow.shard_of(3) != slow.shard_of(6)));
}

// Catches: a copy that is overwritten while it is written, a save that is skipped because another one is under way, a
// wait that nobody hears of.
TEST_CASE("a save that is due while one is written waits for it, and both are whole") {
  constexpr milliseconds kDelay{150};
  SavingRun run({.every_steps = 2, .keep_last = 9});
  run.disk.close();
  run.steps(3);
  const StepResult fourth = run.train();
  const Clock::time_point begin = Clock::now();
  {
    const Opener opener(run.disk, kDelay);
    run.end_step(fourth);
    REQUIRE(run.disk.is_open());
  }
  const double waited = seconds_since(begin);
  run.finish();
  REQUIRE(run.verified() == Steps{2, 4});
  REQUIRE(run.events.size() == 2);
  REQUIRE(run.events[0].step == 2);
  // It begins to wait after the opener does, by what starting a thread takes; all of it is within `waited`.
  REQUIRE(run.events[0].stall_seconds > 0.1);
  REQUIRE(run.events[0].stall_seconds + run.events[1].stall_seconds < waited + 1);
  REQUIRE(run.events[0].error + run.events[1].error == "");
}

// Catches: a run that ends before its checkpoint is on the disk, a last state that is lost, written twice, or written
// although the run has failed.
TEST_CASE("the end waits for what is being written, and saves the last state once") {
  const bool last_state = GENERATE(true, false);
  SavingRun run({.every_steps = 2, .keep_last = 9});
  run.disk.close();
  run.steps(3);
  {
    const Opener opener(run.disk, milliseconds(50));
    run.finish(last_state);
    REQUIRE(run.disk.is_open());
  }
  REQUIRE(run.verified() == (last_state ? Steps{2, 3} : Steps{2}));
  REQUIRE(run.events.size() == run.listed().size());
  REQUIRE(run.checkpoints->newest_step() == (last_state ? 3 : 2));

  run.steps(1);
  run.finish(true);
  run.finish(true);
  REQUIRE(run.verified() == (last_state ? Steps{2, 3, 4} : Steps{2, 4}));
  REQUIRE(run.events.size() == run.listed().size());  // step 4 was due: not again
}

// Catches: times that begin at the wrong place or are mixed up, bytes without a shard, a name that is given before
// metrics.jsonl is synced.
TEST_CASE("events tell where a checkpoint is and how long copy, disk and training took") {
  constexpr double kDelay = 0.08;  // of the disk
  const bool async = GENERATE(true, false);
  SavingRun run({.every_steps = 2, .keep_last = 9, .async = async});
  run.disk.delay = milliseconds(80);
  std::vector<std::string> seen;  // when a name is about to be given
  run.checkpoints->before_commit([&] {
    for (const std::string& name : run.names()) seen.push_back(name);
  });
  run.steps(2);
  if (async) await([&] { return run.checkpoints->shard_written(); });
  run.steps(1);
  run.finish(false);
  REQUIRE(seen == std::vector<std::string>{"step-00000002.partial"});
  REQUIRE(run.events.size() == 1);
  const CheckpointEvent& event = run.events[0];
  REQUIRE((event.step == 2 && event.path == run.path_of(2) && event.error.empty()));
  REQUIRE(event.bytes == static_cast<int64_t>(run.shard_of(2).size()));
  REQUIRE(event.write_seconds >= kDelay);
  REQUIRE(event.seconds >= event.write_seconds);
  REQUIRE((event.copy_seconds > 0) == async);
  REQUIRE(event.copy_seconds < kDelay);
  REQUIRE(event.stall_seconds >= event.copy_seconds);
  if (!async) REQUIRE(event.stall_seconds >= event.write_seconds);
}

// Catches: one too many or too few that stay, a permanent one that goes, one that goes before it is outnumbered.
TEST_CASE("the newest checkpoints stay, and those of multiples for ever") {
  SavingRun run({.every_steps = 1, .keep_last = 2, .keep_every = 3});
  run.steps(7);
  run.finish();
  REQUIRE(run.verified() == Steps{3, 6, 7});
  REQUIRE(run.names().size() == 3);
  REQUIRE(run.events.size() == 7);
}

// Catches: old checkpoints that go once the new one has its name, before anybody has read it; a damage that is not
// told; one that ends the run.
TEST_CASE("a checkpoint that does not read back is told, and old ones go only when a later one is good") {
  SavingRun run({.every_steps = 2, .keep_last = 1, .async = GENERATE(true, false)});
  run.disk.damaged = "step-00000004.partial/rank";
  run.steps(4);
  run.finish();
  REQUIRE(run.listed() == Steps{2, 4});
  verify_shards(run.path_of(2), read_manifest(run.path_of(2)), ReadFrom::cache);
  REQUIRE(run.events.size() == 2);
  REQUIRE(run.events[0].error.empty());
  REQUIRE(run.events[1].step == 4);
  REQUIRE(run.events[1].error.find(run.path_of(4) + "/rank-00000.safetensors: its XXH3 is ") == 0);
  run.steps(2);
  run.finish();
  REQUIRE(run.verified() == Steps{6});
  REQUIRE((run.events.size() == 3 && run.events[2].error.empty()));
}

// Catches: a thread that outlives what it writes from, a half-written checkpoint with a name, leftovers that stay.
TEST_CASE("checkpoints that end during a write leave a partial folder alone, which is cleared away") {
  SavingRun run({.every_steps = 2});
  run.disk.close();
  run.steps(3);
  {
    const Opener opener(run.disk, milliseconds(50));
    run.checkpoints.reset();
    REQUIRE(run.disk.is_open());
  }
  REQUIRE(run.names() == std::vector<std::string>{"step-00000002.partial"});
  REQUIRE(fs::exists(run.path_of(2) + ".partial/" + shard_name(0)));
  REQUIRE_FALSE(fs::exists(run.path_of(2) + ".partial/" + kManifestName));
  REQUIRE(run.listed().empty());
  remove_leftovers(run.disk, run.folder());
  REQUIRE(run.names().empty());
}

// Catches: minutes that are not counted from the last save, a request that is lost or obeyed where there are to be no
// checkpoints.
TEST_CASE("a save is due by steps, by time and on request, and never where checkpoints are off") {
  constexpr double kMinutes = 0.001;
  SavingRun timed({.every_steps = 0, .every_minutes = kMinutes, .keep_last = 9});
  await([&] { return timed.checkpoints->due_by_time(); });
  timed.steps(1);
  REQUIRE(timed.checkpoints->newest_step() == 0);  // somebody has to ask
  const Clock::time_point begin = Clock::now();
  timed.step(true);
  REQUIRE(timed.checkpoints->newest_step() == 2);
  await([&] { return timed.checkpoints->due_by_time(); });
  REQUIRE(seconds_since(begin) >= 60 * kMinutes);
  timed.finish(false);
  REQUIRE(timed.verified() == Steps{2});

  SavingRun off({.every_steps = 0, .every_minutes = 0});
  off.step(true);
  off.finish();
  REQUIRE_FALSE(off.checkpoints->due_by_time());
  REQUIRE_FALSE(fs::exists(off.folder()));
}

}  // namespace dither
