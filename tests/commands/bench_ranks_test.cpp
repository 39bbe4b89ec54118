// dither bench --ranks: the figures from which `dither plan` predicts.
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "tests/catch.h"
#include "tests/commands/program.h"

namespace dither::test {

namespace {

using Json = nlohmann::json;

Json quick_report(const Workplace& place, int ranks) {
  place.write_config("tiny.json", R"({"device": "cpu", "parallel": {"threads": 1}})");
  const std::string command =
      "cd '" + place.path() + "' && '" DITHER_SOURCE_DIR "/scripts/run_ranks.sh' " + std::to_string(ranks) +
      " '" DITHER_BINARY_DIR "/dither' bench tiny.json --ranks --quick --json report.json > out.txt 2> err.txt";
  const int status = std::system(command.c_str());
  INFO(read_whole(place / "err.txt"));
  REQUIRE(status == 0);
  return Json::parse(read_whole(place / "report.json"));
}

std::set<std::string> names_of(const Json& object) {
  std::set<std::string> names;
  for (const auto& [name, value] : object.items()) {
    INFO(name);
    REQUIRE(value.get<double>() > 0);
    names.insert(name);
  }
  return names;
}

}  // namespace

// Catches: inputs that `dither plan` would refuse, a rank that speaks besides the first, steps without their share of
// communication, bytes of one rank for those of the data.
TEST_CASE("bench of ranks ends in the inputs of plan") {
  const Workplace alone, pair;
  const Json one = quick_report(alone, 1), two = quick_report(pair, 2);
  REQUIRE(names_of(one["plan_inputs"]) == std::set<std::string>{"micro_batch_seconds", "update_seconds"});
  REQUIRE(names_of(two["plan_inputs"]) ==
          std::set<std::string>{"call_seconds", "inside_bytes_per_second", "inside_sum_bytes_per_second"});
  REQUIRE(one["ranks"] == 1);
  REQUIRE(two["ranks"] == 2);
  REQUIRE(two["collectives"].size() == 6);
  for (const Json& row : two["collectives"]) {
    const int64_t around =
        row["collective"] == "all_reduce" ? 2 : 1;  // half of the data goes to the other, or twice that
    REQUIRE(row["sent_bytes"].get<int64_t>() * 2 == row["bytes"].get<int64_t>() * around);
  }
  REQUIRE(two["communication"]["seconds"].get<double>() < two["step"]["seconds"].get<double>());
  const std::string text = read_whole(pair / "out.txt");
  REQUIRE(has(text, "--input call_seconds="));
  REQUIRE(text.find("ranks        2") == text.rfind("ranks        "));

  std::vector<std::string> plan = {"plan", "tiny.json", "--device", "cpu", "--ranks", "2", "--json"};
  for (const Json& report : {one, two}) {
    for (const auto& [name, value] : report["plan_inputs"].items()) {
      plan.insert(plan.end(), {"--input", name + "=" + std::to_string(value.get<double>())});
    }
  }
  REQUIRE(Json::parse(pair.output_of(plan))["stages"][0]["predicted"]["step_seconds"].get<double>() > 0);
}

}  // namespace dither::test
