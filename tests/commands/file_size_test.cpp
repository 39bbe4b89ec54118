// Files that the system lets grow to a limit (ulimit -f): what a run does that meets it.
#include <sys/resource.h>

#include <filesystem>

#include "tests/catch.h"
#include "tests/commands/program.h"

namespace dither::test {

namespace {

/// `dither train` with a config of that patch over the tiny one, no file of it larger than so many bytes.
Outcome train_within(const Workplace& place, rlim_t bytes, const std::string& patch) {
  place.write_config("a.json", patch);
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const rlimit limit{bytes, before.rlim_max};
  REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  Program program(place.path(), {"train", "a.json"});  // inherits it
  REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
  return program.wait();
}

}  // namespace

// Catches: a program that SIGXFSZ kills without a word, weights that are cut and called written.
TEST_CASE("weights that the limit of file sizes cuts are an error with its reason, not a kill") {
  const Workplace place;
  place.prepare_corpus();
  const Outcome outcome = train_within(place, 50'000, R"({"checkpoint": {"every_steps": 0}})");
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 2);
  REQUIRE(has(outcome.err, "error: "));
  REQUIRE(has(outcome.err, "weights.safetensors"));
}

// Catches: a run that ends with the first event that does not fit, one that calls itself done without its metrics, a
// warning at every step.
TEST_CASE("metrics that the limit of file sizes cuts do not end a run before it is done") {
  const Workplace place;
  place.prepare_corpus();
  constexpr uintmax_t kLimit = 200'000;  // of metrics that need some 2,000 bytes a step
  const Outcome outcome = train_within(place, kLimit, R"({"steps": 200, "checkpoint": {"every_steps": 0}})");
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 2);
  REQUIRE(has(outcome.err, "error: runs/a/metrics.jsonl cannot be written: File too large; events lost: "));
  const std::string warning = "metrics.jsonl cannot be written: File too large; training goes on";
  const std::string log = read_whole(place / "runs/a/log.txt");
  REQUIRE(has(log, warning));
  REQUIRE(!has(log.substr(log.find(warning) + 1), warning));
  REQUIRE(has(log, "200/200"));
  REQUIRE(std::filesystem::file_size(place / "runs/a/metrics.jsonl") == kLimit);
  place.output_of({"evaluate", "runs/a"});  // its weights are whole
}

}  // namespace dither::test
