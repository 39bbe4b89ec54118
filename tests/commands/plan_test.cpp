// dither plan: what it prints, and that docs/scaling.md prints the same.
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/commands/program.h"

namespace dither::test {

namespace {

using Json = nlohmann::json;

Outcome run_at_home(const std::vector<std::string>& arguments) { return Program(DITHER_SOURCE_DIR, arguments).wait(); }

Json planned(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"plan", "configs/gpt2-124m.json", "--json"});
  const Outcome outcome = run_at_home(arguments);
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  return Json::parse(outcome.out);
}

std::vector<std::string> words_of(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

}  // namespace

// Catches: a page that tells of formulas or inputs that the program has not any more.
TEST_CASE("docs/scaling.md holds what its commands print") {
  const std::string page = read_whole(DITHER_SOURCE_DIR "/docs/scaling.md");
  const std::string begin = "\n    dither plan ", end = "\n\n<!-- end -->";
  int tables = 0;
  for (size_t at = page.find(begin); at != std::string::npos; at = page.find(begin, at + 1)) {
    const size_t line_end = page.find('\n', at + 1);
    const std::string command = page.substr(at + 5, line_end - at - 5);
    if (!has(command, "--markdown") && !has(command, "--list-inputs")) continue;
    std::vector<std::string> arguments = words_of(command);
    arguments.erase(arguments.begin());
    const Outcome outcome = run_at_home(arguments);
    INFO(command);
    REQUIRE(outcome.status == 0);
    REQUIRE(page.substr(line_end + 2, page.find(end, line_end) + 1 - line_end - 2) == outcome.out);
    ++tables;
  }
  REQUIRE(tables == 11);
}

// Catches: a plan for GPUs that wants one, or forgets what the CUDA backend takes; stages without the chosen one;
// times where nothing says how fast the device is; sums of parts that are not the total.
TEST_CASE("plan speaks of machines that are not there") {
  const Json gpu = planned({"--device", "h100", "--ranks", "8", "--set", "parallel.zero_stage=2"});
  const Json cpu = planned({"--device", "cpu", "--ranks", "8", "--set", "parallel.zero_stage=2"});
  REQUIRE(gpu["stages"].size() == 4);
  for (size_t s = 0; s < 4; ++s) {
    const Json& memory = gpu["stages"][s]["memory_bytes"];
    REQUIRE(gpu["stages"][s]["chosen"] == (s == 2));
    REQUIRE(memory["weights"].get<int64_t>() + memory["gradients"].get<int64_t>() +
                memory["optimizer_state"].get<int64_t>() + memory["activations"].get<int64_t>() +
                memory["workspace"].get<int64_t>() ==
            memory["total"].get<int64_t>());
    REQUIRE(memory["workspace"].get<int64_t>() - cpu["stages"][s]["memory_bytes"]["workspace"].get<int64_t>() ==
            32 << 20);
    REQUIRE(gpu["stages"][s]["predicted"]["step_seconds"].get<double>() > 0);
    REQUIRE(!cpu["stages"][s].contains("predicted"));
  }
}

// Catches: a measured figure that predictions do not start from, in either way to give it.
TEST_CASE("a measured throughput of one rank is where predictions start") {
  const Json plan = planned({"--device", "cpu", "--tokens-per-second", "1024", "--set", "batch.tokens_per_step=32768"});
  REQUIRE(plan["one_rank_step_seconds"].get<double>() == Approx(32));
  REQUIRE(plan["stages"][0]["predicted"]["tokens_per_second"].get<double>() == Approx(1024));
  // What is free changes from moment to moment.
  const Json given = planned({"--device", "cpu", "--input", "one_rank_step_seconds=32", "--set",
                              "batch.tokens_per_step=32768", "--input", "memory_bytes=1e9"});
  REQUIRE(given == planned({"--device", "cpu", "--tokens-per-second", "1024", "--set", "batch.tokens_per_step=32768",
                            "--input", "memory_bytes=1e9"}));
}

// Catches: a table without its marks and units, an unmarked prediction, a plan that does not fit and does not say so.
TEST_CASE("plan says what fits, what is predicted and from what") {
  const Outcome seven = run_at_home({"plan", "configs/llama-2-7b.json", "--device", "h100", "--ranks", "8"});
  REQUIRE(seven.status == 0);
  REQUIRE(has(seven.out, "does NOT fit"));
  for (const char* part : {"6,738,415,616 parameters", "optimizer state", "predicted times", "0 *", "efficiency",
                           "predicted from", "inside_bytes_per_second", "h100"}) {
    INFO(part);
    REQUIRE(has(seven.out, part));
  }
  const Outcome untimed = run_at_home({"plan", "configs/gpt2-124m.json", "--device", "cpu"});
  REQUIRE(has(untimed.out, "no times: nothing says how fast this device computes"));
  const Outcome uneven = run_at_home({"plan", "configs/gpt2-124m.json", "--ranks", "6", "--set",
                                      "parallel.zero_stage=1", "--set", "parallel.shard_group_size=4"});
  REQUIRE(uneven.status == 2);
  REQUIRE(has(uneven.err, "must divide the number of ranks, 6"));
}

}  // namespace dither::test
