// Bad input of every class: a short error that names the file and the remedy, status 2, and no run folder left behind.
#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/catch.h"
#include "tests/commands/program.h"

namespace dither::test {

namespace fs = std::filesystem;

namespace {

constexpr int kLongestError = 6;  // lines; what, where, cures

/// `dither arguments` fails as it should; `says`: parts that its message must have.
void require_refusal(const Workplace& place, const std::vector<std::string>& arguments,
                     const std::vector<std::string>& says) {
  const Outcome outcome = place.run(arguments);
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 2);
  REQUIRE(outcome.err.rfind("error: ", 0) == 0);
  REQUIRE(std::count(outcome.err.begin(), outcome.err.end(), '\n') <= kLongestError);
  REQUIRE(!has(outcome.err, "terminate"));
  for (const std::string& part : says) {
    INFO("missing: " << part);
    REQUIRE(has(outcome.err, part));
  }
  REQUIRE(!fs::exists(place / "runs"));
}

std::string tokens(size_t count) { return shard_bytes(std::vector<uint16_t>(count, 7)); }

}  // namespace

// Catches: a shard read without a look at its header or size, an id used as an index unchecked, a folder made too
// early.
TEST_CASE("a bad shard is refused by name, for training and for validation") {
  struct Bad {
    std::string name, bytes;
    std::vector<std::string> says;
  };
  std::string wrong_magic = tokens(100), wrong_version = tokens(100), wrong_width = tokens(100);
  put<uint32_t>(wrong_magic, 0, 20240521);
  put<uint32_t>(wrong_version, 4, 2);
  wrong_width.append(200, '\0');           // 32-bit tokens behind the header of 16-bit ones
  std::vector<uint16_t> beyond(20000, 7);  // far behind the first batch
  beyond[15000] = 257;
  const std::vector<Bad> bad = {
      {"empty", "", {"empty", "dither tokenize"}},
      {"header", std::string(500, '\0'), {"truncated", "500 bytes", "1024"}},
      {"body", tokens(100).substr(0, 1024 + 99), {"truncated", "100 tokens", "99 bytes"}},
      {"magic", wrong_magic, {"not a token shard", "20240521", "20240520"}},
      {"version", wrong_version, {"version 2", "version 1"}},
      {"width", wrong_width, {"longer than its header says", "100 tokens of 2 bytes"}},
      {"vocabulary", shard_bytes(beyond), {"token 257", "position 15000", "model.vocabulary"}},
  };
  const Workplace place;
  write_file(place / "good.bin", tokens(200));
  for (const Bad& shard : bad) {
    const std::string file = shard.name + ".bin";
    std::vector<std::string> says = shard.says;
    says.push_back(file);
    write_file(place / file, shard.bytes);
    place.write_config("train.json", R"({"data": {"train": ")" + file + R"(", "validation": ""}})");
    place.write_config("val.json", R"({"data": {"train": "good.bin", "validation": ")" + file + R"("}})");
    require_refusal(place, {"train", "train.json"}, says);
    require_refusal(place, {"train", "val.json"}, says);
  }
  // Training needs a whole window, validation a target.
  write_file(place / "short.bin", tokens(32));
  place.write_config("train.json", R"({"data": {"train": "short.bin", "validation": ""}})");
  require_refusal(place, {"train", "train.json"},
                  {"short.bin", "shorter than one sequence", "32 tokens", "33", "model.sequence_length"});
  write_file(place / "single.bin", tokens(1));
  place.write_config("val.json", R"({"data": {"train": "good.bin", "validation": "single.bin"}})");
  require_refusal(place, {"train", "val.json"}, {"single.bin", "nothing to judge"});
  for (const std::string missing : {"missing.bin", "missing_*.bin", "nowhere/train.bin"}) {
    place.write_config("train.json", R"({"data": {"train": ")" + missing + R"("}})");
    require_refusal(place, {"train", "train.json"}, {missing, "no file matches", "dither tokenize"});
  }
}

// Catches: a config mistake that gets past the parser into a run; a message without file or place.
TEST_CASE("a bad config is refused by file and place") {
  struct Bad {
    std::string patch;
    std::vector<std::string> says;
  };
  const std::vector<Bad> bad = {
      {R"({"optimizer": {"beta2": 0.9}})", {"optimizer.beta2 is not a key", "optimizer.betas"}},
      {R"({"batch": {"micro_batch_size": "8"}})", {"batch.micro_batch_size", "\"8\"", "integer"}},
      {R"({"batch": {"micro_batch_size": 0}})", {"batch.micro_batch_size", "1 to 65536"}},
      {R"({"batch": [8]})", {"batch", "[8]", "section"}},
      {R"({"optimizer": {"betas": 0.9}})", {"optimizer.betas", "0.9"}},
      {R"({"optimizer": {"learning_rate": -1}})", {"optimizer.learning_rate", "-1"}},
      {R"({"model": {"heads": 3, "kv_heads": 3}})", {"model.heads is 3, must divide model.hidden 64"}},
      {R"({"batch": {"tokens_per_step": 100}})", {"batch.tokens_per_step is 100", "multiple of 64"}},
      {R"({"extends": "gone.json"})", {"extends gone.json"}},
      {R"({"extends": "c.json"})", {"extends goes in a circle", "c.json -> c.json"}},
      {R"({"device": "cuda"})", {"device", "cuda"}},
      {R"({"model": {"layers": 1024, "hidden": 65536, "heads": 512, "kv_heads": 512, "ffn": 262144}})", {"fit", "MiB"}},
      {R"({"logging": {"directory": "c.json"}})", {"c.json"}},
      {R"({"sampling": {"every_steps": 1}})", {"tokenizer.bin", "sampling.every_steps"}},
  };
  const Workplace place;
  write_file(place / "good.bin", tokens(2000));
  const std::string data = R"({"data": {"train": "good.bin", "validation": ""}})";
  for (const Bad& config : bad) {
    place.write_config("base.json", data);
    place.write_config("c.json", config.patch);
    std::string text = read_whole(place / "c.json");
    text.replace(text.find("data/train_*.bin"), 16, "good.bin");
    text.replace(text.find("data/val_*.bin"), 14, "");
    write_file(place / "c.json", text);
    require_refusal(place, {"train", "c.json"}, config.says);
  }
}

// Catches: the parser's own words without line and column, the last of two equal keys winning in silence.
TEST_CASE("a file that is not a config is refused by file and line") {
  struct Bad {
    std::string text;
    std::vector<std::string> says;
  };
  const std::vector<Bad> bad = {
      {"", {"c.json:1:1: invalid JSON"}},
      {"{\n  \"steps\": 3,\n  \"seed\" 4\n}", {"c.json:3:10: invalid JSON"}},
      {"[1, 2]", {"c.json: the document is [1, 2], needs an object"}},
      {R"({"steps": 3, "steps": 4})", {"c.json: steps stands twice"}},
      {R"({"steps": null})", {"c.json: steps is null"}},
      {"{}", {"c.json: data.train is missing"}},
  };
  const Workplace place;
  for (const Bad& file : bad) {
    write_file(place / "c.json", file.text);
    INFO(file.text);
    const Outcome outcome = place.run({"train", "c.json"});
    if (file.text == "{}") {
      REQUIRE(has(outcome.err, "is missing"));  // which key comes first is the table's affair
      REQUIRE(outcome.status == 2);
      continue;
    }
    require_refusal(place, {"train", "c.json"}, file.says);
  }
  require_refusal(place, {"train", "gone.json"}, {"gone.json"});
  require_refusal(place, {"train", "."}, {".", "directory"});
  place.write_config("c.json");
  require_refusal(place, {"train", "c.json", "--set", "steps"}, {"--set", "key=value"});
  require_refusal(place, {"train", "c.json", "--set", "steps=many"}, {"--set", "steps", "many"});
  require_refusal(place, {"train", "c.json", "--set", "stepz=3"}, {"--set", "stepz is not a key", "steps"});
}

// Catches: an earlier run overwritten unasked, --overwrite that deletes a folder which no run made.
TEST_CASE("an earlier run is overwritten on request alone, and nothing else ever is") {
  const Workplace place;
  place.prepare_corpus();
  place.train("a");
  const std::string first = read_whole(place / "runs/a/metrics.jsonl");
  const Outcome again = place.run({"train", "a.json", "--set", "checkpoint.resume=never"});
  REQUIRE(again.status == 2);
  REQUIRE(has(again.err, "runs/a exists"));
  REQUIRE(has(again.err, "--overwrite"));
  REQUIRE(read_whole(place / "runs/a/metrics.jsonl") == first);

  place.output_of({"train", "a.json", "--overwrite"});
  REQUIRE(place.events("a").size() > 2);

  fs::create_directories(place / "runs/b");
  write_file(place / "runs/b/letter.txt", "dear");
  place.write_config("b.json");
  const Outcome refused = place.run({"train", "b.json", "--overwrite"});
  REQUIRE(refused.status == 2);
  REQUIRE(has(refused.err, "runs/b"));
  REQUIRE(read_whole(place / "runs/b/letter.txt") == "dear");
}

// Catches: weights trusted without a look, a tokenizer of other data, an option out of the range of its key.
TEST_CASE("evaluate and sample refuse what does not belong together") {
  const Workplace place;
  place.prepare_corpus();
  place.train("a");
  const std::string weights = place.weights("a");
  fs::rename(place / "runs", place / "kept");  // so that require_refusal's look for a new run folder means something
  write_file(place / "cut.safetensors", weights.substr(0, weights.size() - 10));
  write_file(place / "text.safetensors", "this is no safetensors file at all");
  fs::create_directories(place / "empty");

  for (const std::string command : {"evaluate", "sample"}) {
    require_refusal(place, {command, "gone"}, {"gone", "does not exist"});
    require_refusal(place, {command, "empty"}, {"empty", "no weights.safetensors"});
    require_refusal(place, {command, "cut.safetensors"}, {"cut.safetensors"});
    require_refusal(place, {command, "text.safetensors"}, {"text.safetensors"});
    require_refusal(place, {command, "kept/a", "--set", "model.ffn=104"}, {"weights.safetensors", "shape"});
    require_refusal(place, {command, "kept/a", "--set", "model.layers=2"}, {"weights.safetensors"});
  }
  require_refusal(place, {"evaluate", "kept/a", "--data", "gone_*.bin"}, {"gone_*.bin", "no file matches"});
  require_refusal(place, {"evaluate", "kept/a", "--tokens", "-1"}, {"evaluation.tokens", "-1"});
  require_refusal(place, {"evaluate", "kept/a", "--batches", "3"}, {"--batches 3", "--tokens", "2 x 32 = 64"});
  require_refusal(
      place, {"evaluate", "kept/a", "--set", "evaluation.batches=3"},
      {"--set: evaluation.batches is 3", "evaluation.tokens 192 (3 micro-batches of 2 sequences of 32 tokens)"});
  require_refusal(place, {"sample", "kept/a", "--temperature", "hot"}, {"sampling.temperature", "hot"});
  require_refusal(place, {"sample", "kept/a", "--top-p", "1.5"}, {"sampling.top_p", "1.5"});
  require_refusal(place, {"sample", "kept/a", "--tokenizer", "gone.bin"}, {"gone.bin"});
  require_refusal(place, {"sample", "kept/a", "--tokenizer", "data/train_000000.bin"}, {"not a tokenizer"});
  fs::rename(place / "data", place / "moved");
  require_refusal(place, {"sample", "kept/a"}, {"data/tokenizer.bin", "--tokenizer"});
}

// Catches: shards left behind by a preparation that failed, or mixed with those of another corpus.
TEST_CASE("tokenize refuses bad texts and folders, and leaves nothing") {
  const Workplace place;
  write_file(place / "empty.txt", "");
  write_file(place / "text.txt", "some text\nin two lines\n");
  require_refusal(place, {"tokenize", "--text", "gone.txt", "--output", "d"}, {"gone.txt"});
  require_refusal(place, {"tokenize", "--text", "empty.txt", "--output", "d"}, {"empty.txt"});
  require_refusal(place, {"tokenize", "--text", "text.txt", "--output", "d", "--validation-fraction", "1"}, {"1"});
  REQUIRE((!fs::exists(place / "d") || fs::is_empty(place / "d")));
  place.output_of({"tokenize", "--text", "text.txt", "--output", "d", "--validation-fraction", "0"});
  require_refusal(place, {"tokenize", "--text", "text.txt", "--output", "d"}, {"d/"});
}

}  // namespace dither::test
