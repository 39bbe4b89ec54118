// What the command line says of itself, and what it says to a mistake in it.
#include "base/commit.h"
#include "tests/catch.h"
#include "tests/commands/program.h"

namespace dither::test {

namespace {

const std::vector<std::string> kCommands = {"plan", "train", "evaluate", "sample", "tokenize", "bench", "schema"};

}  // namespace

// Catches: a command without help, help on stderr or with a status that scripts take for a failure.
TEST_CASE("help names every command and every command has help of its own") {
  const Workplace place;
  const Outcome help = place.run({"--help"});
  REQUIRE(help.status == 0);
  REQUIRE(help.err.empty());
  for (const std::string& command : kCommands) {
    REQUIRE(has(help.out, "\n  " + command));
    const Outcome own = place.run({command, "--help"});
    INFO(command);
    REQUIRE(own.status == 0);
    REQUIRE(own.err.empty());
    REQUIRE(has(own.out, "Usage: dither " + command));
    const bool one = has(own.out, "Example:\n  dither " + command);
    REQUIRE((one || has(own.out, "Examples:\n  dither " + command)));
  }
}

// Catches: a version on stderr, a commit that the metrics do not name alike.
TEST_CASE("the program says its version and commit") {
  const Workplace place;
  const Outcome version = place.run({"--version"});
  REQUIRE(version.status == 0);
  REQUIRE(version.err.empty());
  REQUIRE(version.out == "dither 0.1.0, commit " + std::string(commit()) + "\n");
}

// Catches: an unknown option that is ignored, the parser's own exit statuses (above 100), a message without the place.
TEST_CASE("a mistake on the command line exits with 2 and says what is allowed") {
  struct Mistake {
    std::vector<std::string> arguments;
    std::string says;
  };
  const auto mistake = GENERATE(values<Mistake>({
      {{}, "no command given"},
      {{"tran", "a.json"}, "\"tran\" is not a command"},
      {{"--steps"}, "--steps"},
      {{"train"}, "CONFIG"},
      {{"train", "a.json", "b.json"}, "b.json"},
      {{"train", "a.json", "--stepz", "3"}, "--stepz"},
      {{"train", "a.json", "--set"}, "--set"},
      {{"evaluate"}, "WEIGHTS"},
      {{"evaluate", "a", "--tokens"}, "--tokens"},
      {{"sample", "a", "--tokens", "1", "--tokens", "2"}, "--tokens"},
      {{"tokenize", "--text", "a.txt"}, "--output"},
      {{"tokenize", "--output", "a"}, "--text"},
      {{"tokenize", "--text", "a.txt", "--output", "b", "--validation-fraction", "half"}, "--validation-fraction"},
      {{"plan"}, "CONFIG"},
      {{"plan", "a.json", "--ranks", "0"}, "--ranks"},
      {{"schema", "--markdown"}, "--markdown"},
  }));
  const Workplace place;
  const Outcome outcome = place.run(mistake.arguments);
  INFO(outcome.err);
  REQUIRE(outcome.status == 2);
  REQUIRE(outcome.out.empty());
  REQUIRE(outcome.err.rfind("error: ", 0) == 0);
  REQUIRE(has(outcome.err, mistake.says));
  REQUIRE(has(outcome.err, "--help"));
}

// Catches: a result lost on a full disk behind a status of 0.
TEST_CASE("output that cannot be written is an error") {
  const Workplace place;
  REQUIRE(place.output_of({"schema"}).size() > 1000);
  write_file(place / "run.sh", "exec \"$1\" schema > /dev/full\n");
  REQUIRE(std::system(("sh '" + place / "run.sh' '" DITHER_BINARY_DIR "/dither' 2> '" + place / "err'").c_str()) >> 8 ==
          2);
  REQUIRE(has(read_whole(place / "err"), "No space left on device"));
}

// Catches: --reference that prints the schema, a stray line around the JSON that an editor would choke on.
TEST_CASE("schema prints the committed schema and the committed reference page") {
  const Workplace place;
  REQUIRE(place.output_of({"schema"}) == read_whole(DITHER_SOURCE_DIR "/docs/config.schema.json"));
  REQUIRE(place.output_of({"schema", "--reference"}) == read_whole(DITHER_SOURCE_DIR "/docs/configuration.md"));
}

}  // namespace dither::test
