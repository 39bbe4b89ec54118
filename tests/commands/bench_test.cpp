// dither bench: figures of a tiny model, and what it refuses.
#include "tests/catch.h"
#include "tests/commands/program.h"

namespace dither::test {

namespace {

using Json = nlohmann::json;

}  // namespace

// Catches: a bench that needs a corpus, an operation or the step left out of table or file, a run's folder made.
TEST_CASE("bench times every operation and a step of a config without data") {
  const Workplace place;
  place.write_config("a.json");
  const std::string out = place.output_of({"bench", "a.json", "--quick", "--json", "bench.json"});
  const Json json = Json::parse(read_whole(place / "bench.json"));
  REQUIRE(json.at("operations").size() > 30);
  for (const Json& operation : json.at("operations")) {
    REQUIRE(has(out, "\n" + operation.at("operation").get<std::string>() + " "));
    REQUIRE(has(out, operation.at("shape").get<std::string>() + "\n"));
  }
  REQUIRE(has(out, "tokens/s"));
  REQUIRE(json.at("step").at("seconds").get<double>() > 0);
  REQUIRE(json.at("step").at("parts").size() > 10);
  REQUIRE(!has(out, "runs/"));
}

// Catches: --operation ignored, a step after it, --set ignored.
TEST_CASE("bench measures the operations that are named, at the shapes that --set asks for") {
  const Workplace place;
  place.write_config("a.json");
  place.output_of({"bench", "a.json", "--quick", "--json", "bench.json", "--operation", "swiglu_forward", "--operation",
                   "sum_losses", "--set", "batch.micro_batch_size=1"});
  const Json json = Json::parse(read_whole(place / "bench.json"));
  REQUIRE(json.at("operations").size() == 2);
  REQUIRE(json.at("operations").at(0).at("operation") == "swiglu_forward");
  REQUIRE(json.at("operations").at(1).at("shape").get<std::string>().rfind("B 1, ", 0) == 0);
  REQUIRE(!json.contains("step"));
}

// Catches: minutes of measuring that end with a file that cannot be written, a name quietly skipped.
TEST_CASE("bench refuses unknown operations and unwritable files before it measures") {
  const Workplace place;
  place.write_config("a.json");
  const Outcome unknown = place.run({"bench", "a.json", "--operation", "adamv"});
  REQUIRE(unknown.status == 2);
  REQUIRE(unknown.out.empty());
  REQUIRE(has(unknown.err, "error: \"adamv\" is not an operation of the backend"));
  REQUIRE(has(unknown.err, "adamw"));
  const Outcome unwritable = place.run({"bench", "a.json", "--quick", "--json", "nowhere/bench.json"});
  REQUIRE(unwritable.status == 2);
  REQUIRE(unwritable.out.empty());
  REQUIRE(has(unwritable.err, "nowhere/bench.json cannot be written"));
  REQUIRE(place.run({"bench", "b.json"}).status == 2);
}

}  // namespace dither::test
