// Corpora that fail while they are used, that do not fit, or that do not hold what one would think.
#include <filesystem>

#include "tests/catch.h"
#include "tests/commands/saved_runs.h"

namespace dither::test {

namespace fs = std::filesystem;

// Catches: a memory map (the run dies of SIGBUS without a word), an error that loses the steps since the last
// checkpoint, a checkpoint that holds a part of the failed step.
TEST_CASE("a shard that becomes shorter in mid-run ends it with an error and a checkpoint of the last step") {
  const SavedRuns place(R"({"steps": 4000000000, "optimizer": {"schedule": {"kind": "constant"}},
    "evaluation": {"every_steps": 0}, "logging": {"measure_every_steps": 0}, "checkpoint": {"every_steps": 1000000}})");
  const std::string shard = place / "data/train_000000.bin", whole = read_whole(shard);
  Program run(place.path(), SavedRuns::words("a"));
  await([&] { return place.last_step("a") >= 3; });
  fs::resize_file(shard, 2000);
  const Outcome outcome = run.wait();
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 2);
  REQUIRE(has(outcome.err, "error: data/train_000000.bin: ends at offset "));
  const int64_t last = place.last_step("a");
  REQUIRE((last >= 3 && place.checkpoints("a") == Steps{last}));
  place.verify("a");

  write_file(shard, whole);
  place.train("b", {"steps=" + std::to_string(last)});  // was never disturbed
  REQUIRE((place.state("a", last) == place.state("b", last)));
}

}  // namespace dither::test
