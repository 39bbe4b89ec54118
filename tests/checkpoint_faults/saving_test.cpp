// A checkpoint is saved, or an old one removed, on a disk that fails at operation 1, 2, 3, ... until no fault is
// reached.
#include <algorithm>

#include "base/error.h"
#include "tests/catch.h"
#include "tests/checkpoint_faults/faulty_disk.h"
#include "tests/checkpoint_faults/forgetful_disk.h"
#include "tests/checkpoint_faults/place.h"
#include "tests/checkpoint_faults/saved_state.h"

using namespace dither;
using namespace dither::test;
using Catch::Matchers::ContainsSubstring;

namespace {

bool is_listed(const std::string& folder, int64_t step) {
  const std::vector<int64_t> steps = steps_in(folder);
  return std::find(steps.begin(), steps.end(), step) != steps.end();
}

const DiskFailure kFailures[] = {DiskFailure::no_space, DiskFailure::short_write, DiskFailure::permission_denied,
                                 DiskFailure::folder_vanished};

}  // namespace

// Catches: a manifest or a name that comes before its shards, a rename that takes the earlier checkpoint along, a
// failure that is swallowed, an attempt that cannot be repeated because of what the one before it left.
TEST_CASE("a fault at any operation of a save leaves the earlier checkpoint, and the new one whole or not listed") {
  const DiskFailure failure = kFailures[GENERATE(0, 1, 2, 3)];
  const bool for_good = GENERATE(false, true);
  const SavedState earlier(1), later(2);
  const Place place;
  const std::string folder = place / "checkpoints";
  earlier.save(disk(), folder, 1);
  int64_t at = 0, failed = 0;
  for (bool reached = true; reached;) {
    ++at;
    const std::string path = path_in(folder, 2);
    FaultyDisk faulty(disk(), {.failure = failure, .at = at, .for_good = for_good, .folder = path + ".partial"});
    const std::string error = error_of([&] { later.save(faulty, folder, 2); });
    reached = faulty.reached();
    CAPTURE(static_cast<int>(failure), for_good, at, error);

    verify(path_in(folder, 1));
    REQUIRE(is_listed(folder, 1));
    if (is_listed(folder, 2)) verify(path);
    if (error.empty()) REQUIRE(is_listed(folder, 2));
    // A folder that vanishes before it is made or after it has its name costs nothing.
    if (failure != DiskFailure::folder_vanished) REQUIRE(error.empty() == !reached);
    if (!error.empty()) ++failed;
    if (!for_good) REQUIRE_FALSE(std::filesystem::exists(path + ".partial"));  // discarded, since the disk works again

    later.save(disk(), folder, 2);
    verify(path);
    REQUIRE(steps_in(folder) == std::vector<int64_t>{1, 2});
    disk().remove(path);
  }
  REQUIRE(failed >= 20);  // create, write, sync of three files, the folders: that many, or the faults were not reached
}

// Catches: a partial folder that is taken over with what it holds.
TEST_CASE("what a run that died has left of a checkpoint does not get into the next one of its step") {
  const SavedState state(1);
  const Place place;
  const std::string folder = place / "checkpoints", path = path_in(folder, 2);
  std::filesystem::create_directories(path + ".partial/of another age");
  put(disk(), path + ".partial/rank-00002.safetensors", "half", false);
  state.save(disk(), folder, 2);
  verify(path);
  REQUIRE(place.content().size() == 5);  // two folders, two shards, the manifest
}

// Catches: a message without the file's name, the disk's own words lost on the way.
TEST_CASE("what fails is told with its file and the disk's reason") {
  const SavedState state(1);
  const Place place;
  const std::string folder = place / "checkpoints", partial = path_in(folder, 7) + ".partial";
  const auto error_at = [&](DiskOperation operation, int64_t at) {
    FaultyDisk faulty(disk(), {.at = at, .operation = operation, .text = "reason " + std::to_string(at)});
    return error_of([&] { state.save(faulty, folder, 7); });
  };
  REQUIRE(error_at(DiskOperation::create, 1) == partial + "/rank-00000.safetensors: reason 1");
  REQUIRE(error_at(DiskOperation::create, 3) == partial + "/manifest.json: reason 3");
  REQUIRE(error_at(DiskOperation::write, 2) == partial + "/rank-00000.safetensors: reason 2");
  REQUIRE(error_at(DiskOperation::sync_file, 2) == partial + "/rank-00001.safetensors: reason 2");
  REQUIRE(error_at(DiskOperation::rename, 1) == partial + ": reason 1");
  REQUIRE(error_at(DiskOperation::free_bytes, 1).find(folder + ": 0.0 MiB are free, a checkpoint needs 1.") == 0);
}

// Catches: content deleted before the name is gone, a leftover that keeps the next removal from happening.
TEST_CASE("a fault at any operation of a removal leaves the others, and the removed one whole or not listed") {
  const DiskFailure failure = kFailures[GENERATE(0, 2)];
  const bool for_good = GENERATE(false, true);
  const SavedState state(1);
  const Place place;
  const std::string folder = place / "checkpoints";
  state.save(disk(), folder, 2);
  int64_t at = 0;
  for (bool reached = true; reached;) {
    ++at;
    state.save(disk(), folder, 1);
    FaultyDisk faulty(disk(), {.failure = failure, .at = at, .for_good = for_good});
    const std::string error = error_of([&] { remove_checkpoint(faulty, {1, path_in(folder, 1)}); });
    reached = faulty.reached();
    CAPTURE(static_cast<int>(failure), for_good, at, error);
    REQUIRE(error.empty() == !reached);
    verify(path_in(folder, 2));
    if (is_listed(folder, 1)) {
      verify(path_in(folder, 1));
      remove_checkpoint(disk(), {1, path_in(folder, 1)});
    }
    remove_leftovers(disk(), folder);
    REQUIRE(place.content().count("checkpoints/step-00000002/") == 1);
    REQUIRE(place.content().size() == 5);  // two folders, two shards, the manifest
  }
  REQUIRE(at >= 4);  // rename, sync, remove, and one more that is not reached
}

// Catches: each missing fsync, alone: of a shard, of the manifest, of the partial folder, of the folder around it after
// the rename, of the folder above at first.
TEST_CASE("a checkpoint whose commit has returned survives the loss of everything that was not synced") {
  const uint64_t seed = GENERATE(range(0, 12));
  const SavedState state(1);
  SavedState loaded(2);
  const Place place;
  const std::string folder = place / "checkpoints";
  ForgetfulDisk files(place.real(), place.image());
  state.save(files, folder, 1);
  lose_unsynced(place.real(), place.image(), seed);
  CAPTURE(seed);
  REQUIRE(steps_in(folder) == std::vector<int64_t>{1});
  verify(path_in(folder, 1));
  loaded.load(path_in(folder, 1));
  REQUIRE(loaded.bytes() == state.bytes());
}

// Catches: a removal whose rename is not synced before content goes, so that a checkpoint may come back without it.
TEST_CASE("a loss at any operation leaves what is listed whole") {
  const SavedState state(1);
  const std::string fault = "here it ends";
  for (int64_t at = 1, ended = 1; ended != 0; ++at) {
    for (uint64_t seed = 0; seed < 4; ++seed) {
      const Place place;
      const std::string folder = place / "checkpoints";
      ForgetfulDisk files(place.real(), place.image());
      state.save(files, folder, 1);
      FaultyDisk faulty(files, {.at = at, .for_good = true, .text = fault});  // from here on nothing is done
      const std::string error = error_of([&] {
        state.save(faulty, folder, 2);
        remove_checkpoint(faulty, {1, path_in(folder, 1)});
      });
      ended = faulty.reached();
      lose_unsynced(place.real(), place.image(), seed);
      CAPTURE(at, seed, error);
      const std::vector<int64_t> steps = steps_in(folder);
      REQUIRE_FALSE(steps.empty());
      for (const int64_t step : steps) verify(path_in(folder, step));
      if (ended == 0) REQUIRE(steps.back() == 2);
    }
  }
}
