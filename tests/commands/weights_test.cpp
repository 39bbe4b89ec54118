// Which weights evaluate and sample take, and what they say of them.
#include <cstring>
#include <filesystem>

#include "base/printable.h"
#include "tests/catch.h"
#include "tests/commands/saved_runs.h"

namespace dither::test {

namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

/// The line of `evaluate` that names the loss.
std::string loss_line(const std::string& out) {
  const size_t begin = out.find("loss ");
  REQUIRE(begin != std::string::npos);
  return out.substr(begin, out.find('\n', begin) - begin);
}

/// Puts `value` at the start of a BF16 tensor of a weights file.
void poison(const std::string& path, const std::string& tensor, uint16_t value) {
  std::string bytes = read_whole(path);
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const Json json = Json::parse(bytes.substr(sizeof header, header));
  REQUIRE(json.at(tensor).at("dtype") == "BF16");
  const auto offset = sizeof header + header + json.at(tensor).at("data_offsets").at(0).get<size_t>();
  std::memcpy(bytes.data() + offset, &value, sizeof value);
  write_file(path, bytes);
}

}  // namespace

// Catches: weights of an earlier stop taken for the run's, a step that is not named, a damaged checkpoint that is used
// or that ends the command, a file named by its path that is exchanged for something newer.
TEST_CASE("evaluate and sample take a run's newest good weights and name their step") {
  const std::string strategy = GENERATE("bf16_sr", "mixed", "collage_plus");
  const SavedRuns place(R"({"precision": {"strategy": ")" + strategy + R"("}})");
  place.train("a");
  const std::string newest = loss_line(place.output_of({"evaluate", "runs/a"}));
  const auto consolidated = [&](int64_t step) {
    const std::string file = "w" + std::to_string(step) + ".safetensors";
    place.output_of({"checkpoint", "consolidate", place.checkpoint("a", step), file, "--weights"});
    return file;
  };
  const std::string w2 = consolidated(2), w4 = consolidated(4);
  const std::string file = place.folder("a") + "/weights.safetensors";
  REQUIRE(has(place.output_of({"evaluate", "runs/a"}), "runs/a/weights.safetensors, step 6 of 6"));

  fs::copy_file(place / w2, file, fs::copy_options::overwrite_existing);
  const std::string taken = place.output_of({"evaluate", "runs/a/"});
  REQUIRE(has(taken, "weights        runs/a/checkpoints/step-00000006, step 6 of 6\n"));
  REQUIRE(loss_line(taken) == newest);
  REQUIRE(
      has(place.run({"sample", "runs/a", "--tokens", "2"}).err, "weights: runs/a/checkpoints/step-00000006, step 6"));
  const std::string named = place.output_of({"evaluate", "runs/a/weights.safetensors"});
  REQUIRE(has(named, "weights        runs/a/weights.safetensors, step 2 of 6\n"));
  REQUIRE(loss_line(named) != newest);
  fs::remove(file);
  REQUIRE(loss_line(place.output_of({"evaluate", "runs/a"})) == newest);

  std::string shard = read_whole(place.shard("a", 6));
  shard[shard.size() / 2] = static_cast<char>(shard[shard.size() / 2] ^ 1);
  write_file(place.shard("a", 6), shard);
  const Outcome passed = place.run({"evaluate", "runs/a"});
  INFO(passed.err);
  REQUIRE(passed.status == 0);
  REQUIRE(has(passed.err, "warning: runs/a/checkpoints/step-00000006/rank-00000.safetensors: its XXH3 is "));
  REQUIRE(has(passed.err, "; using runs/a/checkpoints/step-00000004, step 4 of 6 instead"));
  REQUIRE(loss_line(passed.out) == loss_line(place.output_of({"evaluate", w4})));
  REQUIRE(loss_line(passed.out) == loss_line(place.output_of({"evaluate", "runs/a/checkpoints/step-00000004"})));
  const Outcome damaged = place.run({"evaluate", "runs/a/checkpoints/step-00000006"});
  REQUIRE(damaged.status == 2);
  fs::remove_all(place.folder("a") + "/checkpoints");
  REQUIRE(has(place.run({"evaluate", "runs/a"}).err, "error: runs/a has no weights"));
}

// Catches: a loss of nan with status 0, a text drawn from NaN, an error that leaves the tensor to be searched.
TEST_CASE("weights that are not finite fail by the first tensor's name") {
  const Workplace place;
  place.prepare_corpus();
  place.train("a");
  const std::string file = place / "runs/a/weights.safetensors";
  poison(file, "model.norm.weight", 0x7FC0);
  poison(file, "model.layers.0.self_attn.o_proj.weight", 0xFF80);
  for (const std::string command : {"evaluate", "sample"}) {
    const Outcome outcome = place.run({command, "runs/a"});
    INFO(outcome.err);
    REQUIRE(outcome.status == 2);
    REQUIRE(has(outcome.err,
                "error: runs/a/weights.safetensors: model.layers.0.self_attn.o_proj.weight holds an infinity"));
    REQUIRE(outcome.out.empty());
  }
}

// Catches: demands on a training step where none is made, warnings about training, positions that are cut off at the
// wrong end, a longer sequence than there are positions.
TEST_CASE("evaluate takes any micro-batch and shorter sequences, and says nothing about training") {
  const Workplace place;
  place.prepare_corpus();
  place.train("a", R"({"optimizer": {"schedule": {"warmup_steps": 50}}, "checkpoint": {"every_steps": 2},
                       "model": {"architecture": "gpt2", "kv_heads": 2}})");
  for (const std::string weights : {"runs/a/weights.safetensors", "runs/a/checkpoints/step-00000002"}) {
    for (const std::string setting : {"batch.micro_batch_size=3", "model.sequence_length=16"}) {
      const Outcome outcome = place.run({"evaluate", weights, "--set", setting});
      INFO(setting << outcome.err);
      REQUIRE(outcome.status == 0);
      REQUIRE(outcome.err.empty());
    }
    const Outcome longer = place.run({"evaluate", weights, "--set", "model.sequence_length=64"});
    REQUIRE(longer.status == 2);
    REQUIRE(!has(place.run({"sample", weights, "--tokens", "2"}).err, "warning"));
  }
}

// Catches: bytes of a model that has learned nothing sent to the terminal as they are, half a character in the log.
TEST_CASE("samples are valid UTF-8 without control characters, on the terminal and in the log") {
  const Workplace place;
  place.prepare_corpus();
  place.train("a", R"({"steps": 3, "sampling": {"every_steps": 1, "tokens": 200, "temperature": 1000}})");
  const std::string text = place.output_of({"sample", "runs/a", "--tokens", "400", "--temperature", "1000"});
  REQUIRE(text.size() > 100);
  REQUIRE(has(text, "\xEF\xBF\xBD"));
  REQUIRE(text == printable(text));
  const std::string log = read_whole(place / "runs/a/log.txt");
  REQUIRE(has(log, "\xEF\xBF\xBD"));
  REQUIRE(log == printable(log));
}

// Catches: a saved config whose derived keys contradict another strategy, one error at a time.
TEST_CASE("a run's own config trains under another strategy") {
  const Workplace place;
  place.prepare_corpus();
  place.train("a");
  place.output_of({"train", "runs/a/config.json", "--set", "name=b", "--set", "precision.strategy=mixed"});
  const Json config = Json::parse(read_whole(place / "runs/b/config.json"));
  REQUIRE(config.at("precision").at("gradient") == "fp32");
  REQUIRE(config.at("precision").at("first_moment") == "fp32");
}

}  // namespace dither::test
