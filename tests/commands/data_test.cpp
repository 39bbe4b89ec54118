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

namespace {

/// A tokenizer.bin of so many tokens, "t0" and on; none stands for a single byte.
std::string other_tokenizer(uint32_t vocabulary) {
  std::string bytes(1024, '\0');
  put<uint32_t>(bytes, 0, 20240328);
  put<uint32_t>(bytes, 4, 2);
  put<uint32_t>(bytes, 8, vocabulary);
  put<uint32_t>(bytes, 12, vocabulary - 1);
  for (uint32_t id = 0; id < vocabulary; ++id) {
    const std::string token = "t" + std::to_string(id);
    bytes += static_cast<char>(token.size()) + token;
  }
  return bytes;
}

}  // namespace

// Catches: tokens that vanish without a word, a share of all tokens instead of those that can be seen, "1 shards".
TEST_CASE("shards shorter than a sample are told, and do not count as seen") {
  const SavedRuns place(R"({"data": {"train": "short/train_*.bin"}, "checkpoint": {"every_steps": 0}})");
  fs::create_directory(place / "short");
  for (int i = 0; i < 9; ++i) {
    write_file(place / ("short/train_" + std::to_string(i) + ".bin"), shard_bytes(std::vector<uint16_t>(32, 65)));
  }
  std::vector<uint16_t> last(33);
  for (size_t i = 0; i < last.size(); ++i) last[i] = static_cast<uint16_t>(i);
  write_file(place / "short/train_9.bin", shard_bytes(last));
  const std::string said = place.train("a");
  REQUIRE(has(said, "10 shards, 321 tokens, 32 of them in samples; 6 steps see 24.00 of them"));
  REQUIRE(has(said, "288 of its 321 tokens are in no sample (89.7 %)"));
  REQUIRE(has(place.train("b", {"data.train=short/train_9.bin"}), "1 shard, 33 tokens; 6 steps see 24.00 of them"));
}

// Catches: a run that dies at its first sample, a prompt that cannot be encoded heard of in mid-run, a missing
// tokenizer.
TEST_CASE("what cannot be sampled is refused before step 1, and a larger vocabulary can") {
  const SavedRuns place(R"({"sampling": {"every_steps": 2, "tokens": 20}})");
  REQUIRE(has(place.train("a", {"model.vocabulary=320"}), "sample at step 4"));
  REQUIRE(place.run({"sample", "runs/a", "--tokens", "20", "--temperature", "1"}).status == 0);
  const std::string tokenizer = read_whole(place / "data/tokenizer.bin");
  write_file(place / "data/tokenizer.bin", other_tokenizer(257));
  REQUIRE(has(place.refusal("b", {"sampling.prompt=\"In\""}), "no token stands for byte 0x49"));
  write_file(place / "data/tokenizer.bin", other_tokenizer(400));
  REQUIRE(has(place.refusal("b"), "the tokenizer has 400 tokens, the model 257 (model.vocabulary)"));
  fs::remove(place / "data/tokenizer.bin");
  REQUIRE(has(place.refusal("b"), "tokenizer.bin does not exist: sampling.every_steps needs"));
  REQUIRE_FALSE(fs::exists(place.folder("b")));
}

// Catches: a tokenizer that is no part of the data: exchanged between a run and its resumption, its evaluation or its
// samples; validation shards of another one; bits per byte by the wrong strings.
TEST_CASE("another tokenizer is noticed by training, resuming, evaluate and sample") {
  const SavedRuns place(R"({"evaluation": {"every_steps": 0}})");
  place.train("a");
  const std::string own = read_whole(place / "data/tokenizer.bin");
  fs::create_directory(place / "other");
  fs::copy_file(place / "data/val_000000.bin", place / "other/val_000000.bin");
  write_file(place / "other/tokenizer.bin", other_tokenizer(257));
  const std::string differ = "data/tokenizer.bin and other/tokenizer.bin differ: 257 tokens, XXH3 ";
  REQUIRE(has(place.refusal("b", {"data.validation=other/val_*.bin"}), differ));
  Outcome outcome = place.run({"evaluate", "runs/a", "--data", "other/val_*.bin"});
  REQUIRE(outcome.status == 2);
  REQUIRE(has(outcome.err, "was trained with another tokenizer than other/tokenizer.bin: XXH3 "));
  REQUIRE(place.run({"evaluate", "runs/a"}).status == 0);

  write_file(place / "data/tokenizer.bin", other_tokenizer(257));
  place.copy_killed("a", "killed", 4);
  REQUIRE(has(place.refusal("killed"), "it was written with another tokenizer"));
  for (const char* command : {"evaluate", "sample"}) {
    outcome = place.run({command, "runs/a"});
    REQUIRE(outcome.status == 2);
    REQUIRE(has(outcome.err, "was trained with another tokenizer than data/tokenizer.bin"));
  }
  fs::remove(place / "data/tokenizer.bin");
  outcome = place.run({"evaluate", "runs/a"});
  REQUIRE(has(outcome.out, "unknown: there is no data/tokenizer.bin"));
  write_file(place / "data/tokenizer.bin", own);
  place.output_of({"checkpoint", "consolidate", place.checkpoint("a", 6), "w.safetensors", "--weights"});
  REQUIRE(has(read_whole(place / "w.safetensors"), "\"dither_tokenizer\""));
}

// Catches: a validation loss on text that was trained on, printed as if it said something.
TEST_CASE("validation on the training text is warned of") {
  const SavedRuns place(R"({"checkpoint": {"every_steps": 0}})");
  REQUIRE_FALSE(has(place.train("a"), "the same text"));
  REQUIRE(has(place.train("b", {"data.validation=data/train_*.bin"}), "training and validation have the same text"));
}

}  // namespace dither::test
