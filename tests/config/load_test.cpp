// Files, what they extend, --set, and JSON that is not what it should be.

#include <array>
#include <cstring>

#include "tests/config/helpers.h"

namespace dither {
namespace {

Config loaded(const std::string& path, const std::vector<std::string>& assignments = {}) {
  std::vector<std::string> warnings;
  return load_config(path, assignments, warnings);
}

std::string load_error(const std::string& path) {
  return error_in([&] { loaded(path); });
}

// Catches: a section replaced as a whole, layers in the wrong order, paths taken from the working directory.
TEST_CASE("a file overrides what it extends key by key, and --set overrides both") {
  const TemporaryFolder folder;
  folder.write("base/a.json", kSmall);
  folder.write("base/b.json",
               R"({"extends": "a.json", "steps": 20, "optimizer": {"epsilon": 1e-6, "weight_decay": 0.5}})");
  const std::string top = folder.write("top.json", R"({"extends": "base/b.json", "optimizer": {"epsilon": 1e-7}})");
  const Config config = loaded(top, {"optimizer.weight_decay=0.25", "seed=7", "seed=8"});
  CHECK(config.steps == 20);
  CHECK(config.optimizer.epsilon == 1e-7);
  CHECK(config.optimizer.weight_decay == 0.25);
  CHECK(config.data.train == "train.bin");
  CHECK(config.seed == 8);  // the last assignment holds
}

// Catches: two runs in one folder because one config extends the other.
TEST_CASE("a run is named by its own file unless that file names it") {
  const TemporaryFolder folder;
  folder.write("a.json", kSmall);
  CHECK(loaded(folder.path("a.json")).name == "t");
  CHECK(loaded(folder.write("b.json", R"({"extends": "a.json"})")).name == "b");
  CHECK(loaded(folder.write("c.d.json", R"({"extends": "a.json"})")).name == "c.d");
  CHECK(loaded(folder.path("b.json"), {"name=x y"}).name == "x y");
  CHECK(contains(load_error(folder.write("...json", R"({"extends": "a.json"})")),
                 "name is missing, and the file's own name will not do: \"..\", needs 1 to 200 characters"));
}

TEST_CASE("extends tells of circles with the chain, and of missing files with who wanted them") {
  const TemporaryFolder folder;
  const std::string a = folder.write("a.json", R"({"extends": "sub/b.json"})");
  const std::string b = folder.write("sub/b.json", R"({"extends": "../a.json"})");
  CHECK(load_error(a) == a + ": extends goes in a circle: " + a + " -> " + b + " -> " + a);
  const std::string self = folder.write("self.json", R"({"extends": "./self.json"})");
  CHECK(load_error(self) == self + ": extends goes in a circle: " + self + " -> " + self);

  const std::string lost = folder.write("lost.json", R"({"extends": "nowhere.json"})");
  CHECK(load_error(lost) ==
        lost + ": extends " + folder.path("nowhere.json") + ", which cannot be opened: No such file or directory");
  CHECK(load_error(folder.path("none.json")) ==
        folder.path("none.json") + " cannot be opened: No such file or directory");
  CHECK(load_error(folder.path("")) == folder.path("") + " is a directory, needs a JSON file");
  CHECK(contains(load_error(folder.write("huge.json", std::string((1 << 20) + 1, ' '))), "is larger than 1 MiB"));
}

// Catches: an error of an extended file reported in the name of the file that extends it, or hidden by an override.
TEST_CASE("a mistake is reported with the file that holds it") {
  const TemporaryFolder folder;
  const std::string base = folder.write("base.json", R"({"steps": 0})");
  const std::string top = folder.write("top.json", R"({"extends": "base.json", "steps": 5})");
  CHECK(load_error(top) == base + ": steps is 0, needs an integer from 1 to 4294967295");

  folder.write("base.json", small_with(R"({"batch": {"tokens_per_step": 1000}})"));
  CHECK(contains(load_error(folder.write("top.json", R"({"extends": "base.json", "steps": 5})")),
                 base + ": batch.tokens_per_step is 1000, needs a multiple of 2048"));
}

TEST_CASE("the value of --set is JSON, or a text where it is not JSON") {
  CHECK(parsed(kSmall, {"optimizer.learning_rate=3e-4"}).optimizer.learning_rate == 3e-4);
  CHECK(parsed(kSmall, {"optimizer.betas=[0.8, 0.9]"}).optimizer.betas == std::array<double, 2>{0.8, 0.9});
  CHECK(parsed(kSmall, {"data.validation=data/val_*.bin"}).data.validation == "data/val_*.bin");
  CHECK(parsed(kSmall, {"data.validation=a=b"}).data.validation == "a=b");
  CHECK(parsed(kSmall, {"data.validation="}).data.validation.empty());
  CHECK(parsed(kSmall, {R"(name="12")"}).name == "12");
  CHECK(parsed(kSmall, {R"(optimizer={"epsilon": 1e-6})"}).optimizer.epsilon == 1e-6);
  CHECK(parsed(kSmall, {"steps=1e4"}).steps == 10000);

  CHECK(error_of(kSmall, {"steps"}) == "--set: \"steps\" needs the form key=value, as in optimizer.learning_rate=3e-4");
  CHECK(contains(error_of(kSmall, {"=1"}), "needs the form key=value"));
  CHECK(error_of(kSmall, {"steps=NaN"}) == "--set: steps is \"NaN\", needs an integer from 1 to 4294967295");
  CHECK(contains(error_of(kSmall, {"optimizer.epsilon=1e999"}), "--set: optimizer.epsilon is \"1e999\", needs a real"));
  CHECK(error_of(kSmall, {"steps=null"}) == "--set: steps is null: give a value, or leave the key out for its default");
  CHECK(contains(error_of(kSmall, {R"(optimizer={"epsilon": 1, "epsilon": 1})"}),
                 "--set: optimizer.epsilon stands twice"));
  CHECK(contains(error_of(kSmall, {"optimizer.beta2=0.9"}),
                 "--set: optimizer.beta2 is not a key\n       nearest: optimizer.betas"));
  CHECK(contains(error_of(kSmall, {"optimizer=3"}), "--set: optimizer is 3, needs an object {...}: it is a section"));
  CHECK(error_of(kSmall, {"extends=a.json"}) == "--set: extends stands in files alone");
  CHECK(contains(error_of(kSmall, {"name=\xff"}), "--set: name is "));  // not UTF-8: could not be written back
}

TEST_CASE("invalid JSON is reported with line and column") {
  CHECK(error_of("{\n  \"steps\": 1,,\n  }") == "t.json:2:14: invalid JSON: unexpected ','; expected string literal");
  CHECK(error_of("{\n  \"steps\": 1\n, , }") == "t.json:3:3: invalid JSON: unexpected ','; expected string literal");
  CHECK(contains(error_of(""), "t.json:1:1: invalid JSON: "));
  CHECK(contains(error_of("{\"a\": 1"), "t.json:1:8: invalid JSON: unexpected end of input"));
  CHECK(contains(error_of("{}\n{}"), "t.json:2:1: invalid JSON: unexpected '{'; expected end of input"));
  CHECK(contains(error_of("{,}"), "t.json:1:2: invalid JSON"));
  CHECK(contains(error_of("{\n/* never closed\n}"), "t.json:2:1: invalid JSON"));
  CHECK(contains(error_of("{\n# no comment\n}"), "t.json:2:1: invalid JSON"));
  CHECK(contains(error_of("{\"steps\": NaN}"), "t.json:1:11: invalid JSON: invalid literal"));
  CHECK(error_of("{\"steps\":\n 1e999}") == "t.json:2:6: invalid JSON: number overflow parsing '1e999'");
  CHECK(contains(error_of("{\"name\": \"\xff\"}"), "t.json:1:11: invalid JSON"));
  CHECK(contains(error_of("{\"name\": \"" + std::string(10000, 'x') + "\n\"}"), "t.json:1:10011: invalid JSON"));
  CHECK(error_of("{\"name\": \"" + std::string(10000, 'x')).size() < 300);
  CHECK(error_of("[1, 2]") == "t.json: the document is [1, 2], needs an object {...}");
}

// Catches: comments and commas that are refused, or taken out of texts, or that move lines and columns.
TEST_CASE("comments and a comma before a closing bracket are no errors, and places stay right") {
  const std::string text = R"({ // a run
  "name": "a--b", /* "steps": 7,
  */ "steps": 10, "model": {"preset": "llama-tiny",},
  "optimizer": {"betas": [0.9, 0.95, /**/ ], },
  "data": {"train": "x/*.bin", "validation": "\\\"//,}" // the last one,
  },
})";
  const Config config = parsed(text);
  CHECK(config.name == "a--b");
  CHECK(config.optimizer.betas == std::array<double, 2>{0.9, 0.95});
  CHECK(config.data.train == "x/*.bin");
  CHECK(config.data.validation == "\\\"//,}");
  CHECK(contains(error_of("{/*\n*/ \"steps\": 1, // one\n  oops}"), "t.json:3:3: invalid JSON"));
}

// Catches: text behind a zero byte that nobody reads.
TEST_CASE("a zero byte is an error with its place") {
  const std::string text = std::string(kSmall).insert(std::strlen(kSmall), 1, '\0') + R"( "steps": 1)";
  CHECK(
      contains(error_of(text), "t.json:1:" + std::to_string(std::strlen(kSmall) + 1) + ": invalid JSON: a zero byte"));
  CHECK(contains(error_of(std::string("{\0}", 3)), "t.json:1:2: invalid JSON: a zero byte"));
}

// Catches: 2^53 + 1 that becomes 2^53 without a word, digits behind the point that vanish; 1e4 and 10.0 refused.
TEST_CASE("a number that would be rounded to another integer is an error") {
  CHECK(contains(error_of(kSmall, {"seed=9007199254740993.0"}),
                 "seed is 9007199254740993.0, which would be rounded to 9007199254740992"));
  CHECK(contains(error_of(small_with("{}").insert(1, "\"seed\": 7.00000000000000000001,")), "rounded to 7"));
  CHECK(contains(error_of(kSmall, {"seed=0.9999999999999999999"}), "rounded to 1"));
  CHECK(contains(error_of(kSmall, {"seed=9007199254740992.0"}), "needs an integer"));
  CHECK(parsed(kSmall, {"seed=9007199254740991.0"}).seed == 9007199254740991u);
  CHECK(parsed(kSmall, {"seed=9007199254740993"}).seed == 9007199254740993u);
  for (const char* ten : {"10.0", "1e1", "1.0E+1", "0.1e2", "100e-1", "10.000"}) {
    INFO(ten);
    CHECK(parsed(kSmall, {std::string("steps=") + ten}).steps == 10);
  }
  CHECK(parsed(kSmall, {"optimizer.weight_decay=0e99"}).optimizer.weight_decay == 0);
  CHECK(parsed(kSmall, {"optimizer.weight_decay=-0.0"}).optimizer.weight_decay == 0);
}

// Catches: a name of digits (a job's number) refused as a number, quotes that are no longer JSON's.
TEST_CASE("a text key takes what --set gives it as a text") {
  for (const char* name : {"4711", "1e3", "true", "null", "[1]", "{}"})
    CHECK(parsed(kSmall, {std::string("name=") + name}).name == name);
  CHECK(parsed(kSmall, {R"(name="x\u0041")"}).name == "xA");
  CHECK(contains(error_of(kSmall, {"steps=true"}), "needs an integer"));
}

// Catches: a chain that is read to its end whatever its length, in a time that grows with its square.
TEST_CASE("extends leads through at most 64 files") {
  const TemporaryFolder folder;
  folder.write("0.json", kSmall);
  for (int i = 1; i <= 64; ++i) {
    folder.write(std::to_string(i) + ".json", R"({"extends": ")" + std::to_string(i - 1) + R"(.json", "name": "n"})");
  }
  CHECK(loaded(folder.path("63.json")).steps == 10);
  CHECK(contains(load_error(folder.path("64.json")), "extends leads through more than 64 files"));
}

// Catches: a parser that keeps the last of two equal keys, which is what JSON libraries do.
TEST_CASE("a repeated key is an error wherever it stands") {
  CHECK(error_of(R"({"steps": 1, "steps": 1})") == "t.json: steps stands twice in the same object: keep one");
  CHECK(error_of(R"({"optimizer": {"schedule": {"kind": "wsd", "kind": "wsd"}}})") ==
        "t.json: optimizer.schedule.kind stands twice in the same object: keep one");
  CHECK(contains(error_of(R"({"model": {"layers": 1}, "model": {"hidden": 8}})"), "model stands twice"));
  CHECK(contains(error_of(R"({"optimizer": {"betas": [{"a": 1, "a": 2}]}})"), "optimizer.betas.a stands twice"));
}

// Catches: a recursion that a hostile file can drive through the stack.
TEST_CASE("nesting is bounded before anything recurses") {
  const std::string arrays(100000, '['), message = " is nested more than 16 deep";
  CHECK(error_of("{\"steps\": " + arrays) == "t.json: steps" + message);
  CHECK(error_of(arrays) == "t.json: the document" + message);
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  CHECK(contains(error_of(objects), message));
  CHECK(error_of(kSmall, {"steps=" + arrays}) == "--set: steps" + message);
}

// Catches: an exception of the JSON library that leaves the room, whatever the bytes are.
TEST_CASE("every prefix of a config, and every byte of it replaced, is a config or an Error") {
  const std::string text = to_json(parsed(kSmall));
  const auto attempt = [](const std::string& bytes) {
    try {
      parsed(bytes);
    } catch (const Error&) {
    }  // any other exception fails the test
  };
  for (size_t i = 0; i < text.size(); ++i) {
    if (i % 8 == 0) attempt(text.substr(0, i));  // each prefix ends in its own state of the parser, or nearly so
    std::string changed = text;
    changed[i] = "\"{}[]:,0-e\xff\\nt.\0"[i % 16];
    attempt(changed);
  }
  SUCCEED();
}

}  // namespace
// Catches: a retired key that is silently dropped, refused without the number that replaces it, or refused in what the
// program itself wrote; one that overrides its replacement; a product beyond 64 bits.
TEST_CASE("a retired key is refused in what a user writes, and translated in what the program has stored") {
  const TemporaryFolder folder;
  const std::string text = small_with(
      R"({"evaluation": {"batches": 20}, "batch": {"micro_batch_size": 4}, "model": {"sequence_length": 128}})");
  const std::string cure =
      ": evaluation.batches is 20, but the key has been replaced by evaluation.tokens\n       cure: evaluation.tokens "
      "10240 (20 micro-batches of 4 sequences of 128 tokens)";
  const std::string file = folder.write("old.json", text);
  CHECK(error_in([&] { loaded(file); }) == file + cure);
  const std::string next = folder.write("next.json", R"({"extends": "old.json"})");
  CHECK(error_in([&] { loaded(next); }) == file + cure);
  const std::string plain = folder.write("plain.json", small_with(R"({"batch": {"micro_batch_size": 4}})"));
  CHECK(contains(error_in([&] { loaded(plain, {"evaluation.batches=0"}); }), "evaluation.tokens 0 (the whole set)"));
  CHECK(contains(error_in([&] { loaded(plain, {"evaluation.batches=-1"}); }), "is -1, needs an integer from 0 to"));
  CHECK(parsed(text).evaluation.tokens == 10240);
  CHECK(parsed(text, {"evaluation.tokens=7"}).evaluation.tokens == 7);
  CHECK(contains(error_of(text, {"evaluation.batches=20"}), "--set" + cure));
  CHECK(parsed(small_with(R"({"evaluation": {"batches": 0}})")).evaluation.tokens == 0);
  CHECK(parsed(small_with(R"({"evaluation": {"batches": 4294967295}, "batch": {"micro_batch_size": 65536}})"))
            .evaluation.tokens == int64_t{1} << 50);
  CHECK(
      contains(error_of(small_with(R"({"evaluation": {"batches": "all"}})")), "evaluation.batches is \"all\", needs"));
  CHECK(contains(
      error_in([&] { loaded(folder.write("v.json", small_with(R"({"vary": {"evaluation.batches": [1]}})"))); }),
      "vary.evaluation.batches has been replaced by evaluation.tokens (an integer from 0"));
}

}  // namespace dither
