// The same bits again: of two runs, and of runs with other numbers of threads.
#include "tests/catch.h"
#include "tests/commands/program.h"

namespace dither::test {

namespace {

using Json = nlohmann::json;

// Long enough for a difference in any tensor to reach the loss, wide enough that every parallel loop and every matrix
// product is cut among four threads.
constexpr const char* kRun = R"({
  "steps": 4, "model": {"layers": 2, "hidden": 128, "heads": 4, "kv_heads": 2, "ffn": 384},
  "batch": {"tokens_per_step": 512, "micro_batch_size": 8}, "evaluation": {"every_steps": 2}})";

Json run_with(const std::string& strategy, int threads) {
  Json patch = Json::parse(kRun);
  patch["precision"] = {{"strategy", strategy}};
  patch["parallel"] = {{"threads", threads}};
  return patch;
}

/// metrics.jsonl without what may differ: name, times, and the backend's own account of its threads.
std::string comparable(const Workplace& place, const std::string& name) {
  std::string text;
  for (Json event : place.events(name)) {
    for (const char* field : {"name", "backend", "tokens_per_second", "step_seconds", "seconds", "stall_seconds",
                              "copy_seconds", "write_seconds", "path", "bytes"}) {  // a manifest holds the name too
      event.erase(field);
    }
    text += event.dump() + "\n";
  }
  return text;
}

/// Weights without the header, which holds the config with the run's name and threads.
std::string tensors(const Workplace& place, const std::string& name) {
  const std::string file = place.weights(name);
  uint64_t header = 0;
  std::memcpy(&header, file.data(), sizeof header);
  REQUIRE(header < file.size());
  return file.substr(8 + header);
}

}  // namespace

// Catches: uninitialised memory, an order that depends on timing, noise from a clock or an address.
TEST_CASE("the same config twice gives the same metrics and weights to the bit") {
  const Workplace place;
  place.prepare_corpus();
  place.train("a", run_with("bf16_sr", 0).dump());
  const std::string metrics = comparable(place, "a"), weights = place.weights("a"), bits = tensors(place, "a");
  place.output_of({"train", "a.json", "--overwrite"});
  REQUIRE(comparable(place, "a") == metrics);
  REQUIRE(place.weights("a") == weights);

  place.output_of({"train", "a.json", "--overwrite", "--set", "seed=7"});  // the comparison can tell runs apart
  REQUIRE(comparable(place, "a") != metrics);
  REQUIRE(tensors(place, "a") != bits);
}

// Catches: a sum cut by thread, a product that splits its inner dimension by thread, noise numbered by thread.
TEST_CASE("the bits do not depend on the number of threads") {
  const std::string strategy = GENERATE("bf16_sr", "fp32", "collage_plus");
  const Workplace place;
  place.prepare_corpus();
  place.train("one", run_with(strategy, 1).dump());
  for (const int threads : {2, 4}) {
    INFO(strategy << ", " << threads << " threads");
    place.train("more", run_with(strategy, threads).dump());
    REQUIRE(comparable(place, "more") == comparable(place, "one"));
    REQUIRE(tensors(place, "more") == tensors(place, "one"));
    std::filesystem::remove_all(place / "runs/more");
  }
}

}  // namespace dither::test
