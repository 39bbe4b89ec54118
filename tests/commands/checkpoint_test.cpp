// dither checkpoint list, verify, show and consolidate, on checkpoints written as several ranks would have.
#include <algorithm>
#include <filesystem>
#include <sstream>

#include "src/checkpoint/checkpoint_folder.h"
#include "src/checkpoint/consolidate.h"
#include "src/checkpoint/load.h"
#include "src/checkpoint/safetensors.h"
#include "src/checkpoint/shard.h"
#include "src/checkpoint/state_tensors.h"
#include "src/checkpoint/weights.h"
#include "src/training/engine.h"
#include "tests/catch.h"
#include "tests/checkpoint/disk_beneath.h"
#include "tests/commands/program.h"
#include "tests/numerics/reference.h"  // Random

namespace dither::test {

namespace fs = std::filesystem;

namespace {

/// A config of the small model; "name" is a.
Config small_config(const Workplace& place, const std::string& patch) {
  place.write_config("a.json", patch);
  std::vector<std::string> warnings;
  Config config = load_config(place / "a.json", {}, warnings);
  config.device = "cpu";
  return config;
}

/// A model whose state is random throughout: an element in a wrong place is seen.
struct RandomState {
  Engine engine;

  RandomState(const Config& config, uint64_t seed) : engine(config) {
    reference::Random random(seed);
    for (const StateArray& array : engine.optimizer().state()) {
      for (int64_t i = 0; i < array.elements; ++i) {
        const bool whole = array.view.type == DType::int16;
        put(array.view, i, static_cast<float>(whole ? random.between(-32768, 32767) : random.uniform()));
      }
    }
  }

  /// The checkpoint at `path` as `ranks` ranks with a copy each write it.
  void save(const std::string& path, int64_t step, int64_t ranks) {
    Manifest manifest;
    manifest.training = {.step = step, .samples = 4 * step, .losses = {5.5, 5.25}, .norms = {1}, .skipped_steps = 1};
    manifest.config = to_json(engine.config());
    manifest.commit = "0123abc";
    manifest.arithmetic = engine.backend().arithmetic();
    manifest.data = "00000000000000ff";
    manifest.ranks = ranks;
    NewCheckpoint checkpoint(disk(), path);
    checkpoint.begin(0);
    for (int64_t rank = 0; rank < ranks; ++rank) {
      Shard shard(state_pieces(engine.table(), engine.optimizer(), rank, ranks), engine.backend(), engine.stream());
      manifest.shards.push_back(shard.write(disk(), checkpoint.partial(), shard_name(rank), false));
    }
    checkpoint.commit(manifest);
  }
};

bool same_state(Engine& a, Engine& b) {
  const std::vector<StateArray> left = a.optimizer().state(), right = b.optimizer().state();
  if (left.size() != right.size()) return false;
  for (size_t i = 0; i < left.size(); ++i) {
    for (const Segment& s : left[i].part->segments) {  // the gaps between tensors are nobody's
      const int64_t bytes = s.count * size_of(left[i].view.type);
      if (std::memcmp(left[i].view.at(s.offset).data, right[i].view.at(s.offset).data, static_cast<size_t>(bytes)) != 0)
        return false;
    }
  }
  return true;
}

void flip_bit(const std::string& path, size_t byte) {
  std::string bytes = read_whole(path);
  bytes.at(byte) = static_cast<char>(bytes[byte] ^ 1);
  write_file(path, bytes);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// The line that holds `part`; "" if none does.
std::string line_with(const std::string& text, const std::string& part) {
  for (const std::string& line : lines_of(text)) {
    if (has(line, part)) return line;
  }
  return "";
}

/// A disk of which only so many writes succeed, and whose largest write is known.
class FailingDisk final : public test::DiskBeneath {
 public:
  explicit FailingDisk(int64_t writes) : writes_left(writes) {}
  int64_t writes_left, largest_write = 0;

  std::unique_ptr<OutputFile> create(const std::string& path) override {
    return std::make_unique<File>(*this, disk().create(path));
  }

 private:
  struct File final : OutputFile {
    File(FailingDisk& d, std::unique_ptr<OutputFile> f) : all(d), file(std::move(f)) {}
    void write(const void* data, int64_t bytes) override {
      if (all.writes_left-- == 0) throw Error("no space");
      all.largest_write = std::max(all.largest_write, bytes);
      file->write(data, bytes);
    }
    void sync() override { file->sync(); }
    FailingDisk& all;
    std::unique_ptr<OutputFile> file;
  };
};

/// Whether two files of weights hold the same tensors; their metadata may differ.
bool same_tensors(const std::string& left, const std::string& right) {
  const SafetensorsFile a(left), b(right);
  if (a.tensors().size() != b.tensors().size()) return false;
  return std::all_of(a.tensors().begin(), a.tensors().end(), [&b](const SafetensorsTensor& tensor) {
    const SafetensorsTensor& other = b.at(tensor.name);
    return tensor.type == other.type && tensor.shape == other.shape &&
           std::memcmp(tensor.data, other.data, static_cast<size_t>(tensor.bytes())) == 0;
  });
}

}  // namespace

// Catches: a partial folder listed as a checkpoint, order by name of what has more digits, a size without the other
// ranks' files, a permanent one that is not told, one damaged manifest that hides the others.
TEST_CASE("checkpoint list names finished checkpoints, permanent ones, leftovers and damage") {
  const Workplace place;
  RandomState state(small_config(place, R"({"checkpoint": {"keep_every": 4}, "precision": {"strategy": "mixed"}})"), 1);
  const std::string folder = place / "runs/a/checkpoints";
  state.save(folder + "/step-00000002", 2, 3);
  state.save(folder + "/step-00000004", 4, 1);
  state.save(folder + "/step-100000004", 100000004, 1);
  fs::create_directories(folder + "/step-00000006.partial");
  fs::create_directories(folder + "/step-00000001.removed");
  int64_t bytes = 0;
  for (int64_t rank = 0; rank < 3; ++rank) {
    bytes += static_cast<int64_t>(fs::file_size(folder + "/step-00000002/" + shard_name(rank)));
  }
  char size[32];
  std::snprintf(size, sizeof size, " %.1f  ", static_cast<double>(bytes) / (1 << 20));

  const std::string out = place.output_of({"checkpoint", "list", "runs/a"});
  INFO(out);
  REQUIRE(lines_of(out).size() == 7);
  const std::string second = lines_of(out)[2];
  REQUIRE((has(second, "         2  20") && has(second, "s  ") && has(second, size) && has(second, "    3  mixed")));
  REQUIRE(!has(second, "kept"));
  REQUIRE((has(lines_of(out)[3], "         4  20") && has(lines_of(out)[3], "mixed, kept for ever")));
  REQUIRE(has(lines_of(out)[4], " 100000004  20"));
  REQUIRE(has(lines_of(out)[5], "step-00000001.removed  being removed"));
  REQUIRE(has(lines_of(out)[6], "step-00000006.partial  not finished"));
  REQUIRE(place.output_of({"checkpoint", "list", "runs/a/checkpoints/"}) == out);

  flip_bit(folder + "/step-00000002/manifest.json", 40);
  const Outcome damaged = place.run({"checkpoint", "list", "runs/a"});
  REQUIRE(damaged.status == 2);
  REQUIRE(has(line_with(damaged.out, "         2  damaged: "), "step-00000002/manifest.json: its XXH3 is"));
  REQUIRE(has(damaged.out, "mixed, kept for ever"));
  REQUIRE(damaged.err.rfind("error: 1 of 3 checkpoints is damaged", 0) == 0);
}

// Catches: a folder without checkpoints that is an error or looks like a damaged one, a wrong path that is an empty
// run.
TEST_CASE("checkpoint list of a run without any says so, and of no run is an error") {
  const Workplace place;
  fs::create_directories(place / "runs/a");
  REQUIRE(has(place.output_of({"checkpoint", "list", "runs/a"}), "no checkpoints"));
  const Outcome missing = place.run({"checkpoint", "list", "runs/b"});
  REQUIRE(missing.status == 2);
  REQUIRE(has(missing.err, "error: runs/b does not exist: needs a run's folder"));
}

// Catches: an end at the first damage, a damaged file that passes by its size, status 0, a last shard never read.
TEST_CASE("checkpoint verify reads every file of every checkpoint and names each damage") {
  const Workplace place;
  RandomState state(small_config(place, "{}"), 2);
  const std::string folder = place / "runs/a/checkpoints/";
  for (int64_t step = 1; step <= 6; ++step) state.save(folder + checkpoint_name(step), step, 2);
  const std::string good = place.output_of({"checkpoint", "verify", "runs/a"});
  REQUIRE(lines_of(good).size() == 6);
  for (const std::string& line : lines_of(good)) {
    INFO(line);
    REQUIRE(has(line, ": good, "));
    REQUIRE((has(line, " MiB in ") && has(line, " s")));
  }

  const std::string last = shard_name(1);
  flip_bit(folder + "step-00000001/" + last, fs::file_size(folder + "step-00000001/" + last) - 1);
  fs::resize_file(folder + "step-00000002/" + last, fs::file_size(folder + "step-00000002/" + last) - 1);
  fs::remove(folder + "step-00000003/" + shard_name(0));
  flip_bit(folder + "step-00000004/manifest.json", 200);
  fs::rename(folder + "step-00000005", folder + "step-00000007");
  const Outcome outcome = place.run({"checkpoint", "verify", "runs/a/", "runs/a/checkpoints/step-00000006"});
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 2);
  REQUIRE(outcome.err.rfind("error: 5 of 7 checkpoints are damaged", 0) == 0);
  const std::string start = "runs/a/checkpoints/step-0000000";
  REQUIRE(line_with(outcome.out, "its XXH3 is").rfind(start + "1/rank-00001.safetensors: ", 0) == 0);
  REQUIRE(line_with(outcome.out, "it has ").rfind(start + "2/rank-00001.safetensors: ", 0) == 0);
  REQUIRE(line_with(outcome.out, "No such file").rfind(start + "3/rank-00000.safetensors: ", 0) == 0);
  REQUIRE(has(outcome.out, start + "4/manifest.json: "));
  REQUIRE(line_with(outcome.out, "has been renamed").rfind(start + "7/manifest.json: ", 0) == 0);
  REQUIRE(line_with(outcome.out, ": good, ").rfind(start + "6: good", 0) == 0);
}

// Catches: all of the memory taken for a file that only has a manifest's name.
TEST_CASE("a manifest of more than 256 MiB is refused before it is parsed") {
  const Workplace place;
  RandomState state(small_config(place, "{}"), 2);
  state.save(place / "large", 1, 1);
  fs::resize_file(place / "large/manifest.json", (int64_t{256} << 20) + 1);
  for (const char* command : {"verify", "show"}) {
    const Outcome outcome = place.run({"checkpoint", command, "large"});
    INFO(outcome.out << outcome.err);
    REQUIRE(outcome.status == 2);
    REQUIRE(has(outcome.out + outcome.err, "large/manifest.json: larger than 256 MiB: not a manifest"));
  }
}

// Catches: files believed because their checksums hold, while elements are missing or are of another config.
TEST_CASE("checkpoint verify refuses a checkpoint whose files are good and whose state is not whole") {
  const Workplace place;
  RandomState state(small_config(place, R"({"precision": {"strategy": "bf16_kahan"}})"), 3);
  state.save(place / "one", 1, 2);
  Manifest manifest = read_manifest(place / "one");
  const auto verify_with = [&](const Manifest& changed) {
    write_file(place / "one/manifest.json", to_text(changed));
    const Outcome outcome = place.run({"checkpoint", "verify", "one"});
    REQUIRE(outcome.status == 2);
    return outcome.out;
  };
  Manifest lacking = manifest;
  lacking.shards.pop_back();
  REQUIRE(has(verify_with(lacking), "needs "));
  Manifest twice = manifest;
  twice.shards[1].ranges[0].begin -= 1;
  REQUIRE(has(verify_with(twice), "more than once"));
  Manifest foreign = manifest;
  foreign.config = to_json(small_config(place, R"({"precision": {"strategy": "collage_plus"}})"));
  REQUIRE(has(verify_with(foreign), "is in none of the shards"));
  Manifest mixed = manifest;
  mixed.config = to_json(small_config(place, R"({"precision": {"strategy": "mixed"}})"));
  REQUIRE(has(verify_with(mixed), "elements of BF16, needs "));
  Manifest without_c = manifest;
  without_c.config = to_json(small_config(place, R"({"precision": {"strategy": "bf16"}})"));
  REQUIRE(has(verify_with(without_c), "weight_extra/"));
  Manifest smaller = manifest;
  smaller.config = to_json(small_config(place, R"({"model": {"qk_norm": false, "ffn": 64}})"));
  REQUIRE(has(verify_with(smaller), "this model needs"));
}

// Catches: figures of another checkpoint than the newest, tokens counted as samples, the config with text around it, a
// tensor without one of its shards.
TEST_CASE("checkpoint show tells where a checkpoint comes from and which file holds what") {
  const Workplace place;
  const Config config = small_config(place, R"({"precision": {"strategy": "collage_plus"}, "steps": 50})");
  RandomState state(config, 4);
  state.save(place / "runs/a/checkpoints/step-00000002", 2, 1);
  state.save(place / "runs/a/checkpoints/step-00000010", 10, 2);
  const std::string out = place.output_of({"checkpoint", "show", "runs/a"});
  INFO(out);
  for (const std::string part :
       {"checkpoint  runs/a/checkpoints/step-00000010\n", "run         a, step 10 of 50\n",
        "seen        40 samples, 1,280 tokens\n", "strategy    collage_plus: ", "ranks       2, ZeRO 0\n",
        "commit      0123abc\n", "arithmetic  ", "data        00000000000000ff\n",
        "guards      1 step skipped, 0 in a row; windows of 2 losses and 1 norms\n", "state       weight ",
        " + second_moment_extra ", "shard       rank-00000.safetensors: ", "shard       rank-00001.safetensors: "}) {
    INFO("missing: " << part);
    REQUIRE(has(out, part));
  }
  const std::string checkpoint = "runs/a/checkpoints/step-00000010";
  REQUIRE(place.output_of({"checkpoint", "show", checkpoint, "--config"}) == to_json(config));

  const std::vector<std::string> tensors = lines_of(place.output_of({"checkpoint", "show", checkpoint, "--tensors"}));
  REQUIRE(tensors.size() == 5 * state.engine.table().parameters().size());
  for (const Parameter& p : state.engine.table().parameters()) {
    const std::string half = std::to_string(p.elements() / 2), all = std::to_string(p.elements());
    const std::string shape = std::to_string(p.rows) + (p.columns == 1 ? "" : "," + std::to_string(p.columns));
    const std::string wanted = "first_moment/" + p.name + "  bf16  [" + shape + "]  rank-00000.safetensors [0," + half +
                               "), rank-00001.safetensors [" + half + "," + all + ")";
    INFO(wanted);
    REQUIRE(std::count(tensors.begin(), tensors.end(), wanted) == 1);
  }
}

// Catches: shards joined in the order of files instead of elements, a tensor cut at a chunk, types or shapes lost, a
// manifest that still names the old files, guards or samples left behind.
TEST_CASE("checkpoint consolidate makes one file of whole tensors that loads to the same bits") {
  const std::string strategy = GENERATE("mixed", "collage_plus", "split32");
  const Workplace place;
  const Config config =
      small_config(place, R"({"precision": {"strategy": ")" + strategy + R"(", "fp32_parameters": ["norm"]}})");
  RandomState state(config, 5);
  state.save(place / "three", 7, 3);
  const std::string out = place.output_of({"checkpoint", "consolidate", "three", "whole/"});
  REQUIRE(has(out, "whole: step 7 of three in one file, "));
  REQUIRE(has(place.output_of({"checkpoint", "verify", "whole"}), "whole: good"));

  const Manifest before = read_manifest(place / "three"), after = read_manifest(place / "whole");
  Manifest same = before;
  same.shards = after.shards;
  REQUIRE(to_text(same) == to_text(after));
  REQUIRE(after.shards.size() == 1);
  const SafetensorsFile file(place / ("whole/" + after.shards[0].file));
  const std::vector<StateTensor> tensors = state_tensors("whole", after, config);
  REQUIRE(file.tensors().size() == tensors.size());
  for (const StateTensor& tensor : tensors) REQUIRE(file.at(tensor.range.tensor()).shape == tensor.shape);

  RandomState other(config, 6);
  REQUIRE(!same_state(state.engine, other.engine));
  load_state(place / "whole", after, config, config, other.engine.table(), other.engine.optimizer(),
             other.engine.backend(), other.engine.stream());
  REQUIRE(same_state(state.engine, other.engine));
}

// Catches: an output that is written over, a folder left behind after a refusal, damaged bytes that get a new checksum,
// a name under which nobody could read the result.
TEST_CASE("checkpoint consolidate refuses what exists, what is damaged and another step's name, and leaves nothing") {
  const Workplace place;
  RandomState state(small_config(place, "{}"), 7);
  state.save(place / "two", 3, 2);
  const std::string before = read_whole(place / "two/manifest.json");
  const auto refused = [&place](const std::vector<std::string>& arguments) {
    const Outcome outcome = place.run(arguments);
    INFO(outcome.out << outcome.err);
    REQUIRE(outcome.status == 2);
    return outcome.err;
  };
  for (const std::string mode : {"", "--weights"}) {
    std::vector<std::string> command = {"checkpoint", "consolidate", "two", "two"};
    if (!mode.empty()) command.push_back(mode);
    REQUIRE(has(refused(command), "error: two exists already"));
    command[3] = "new";
    flip_bit(place / "two/rank-00001.safetensors", 5000);
    REQUIRE(has(refused(command), "error: two/rank-00001.safetensors: its XXH3 is"));
    flip_bit(place / "two/rank-00001.safetensors", 5000);
  }
  REQUIRE(has(refused({"checkpoint", "consolidate", "two", "step-00000004"}), "needs step-00000003"));
  REQUIRE(read_whole(place / "two/manifest.json") == before);
  for (const std::string name : {"new", "new.partial", "step-00000004", "step-00000004.partial"}) {
    INFO(name);
    REQUIRE(!fs::exists(place / name));
  }
}

// Catches: a failed write that leaves half a folder or is taken for a whole one; a whole tensor written, so held, at
// once, or the same piece of it twice: the embedding of this model has 8.25 MiB.
TEST_CASE("consolidating on a disk that fails leaves nothing, and writes small pieces where it does not") {
  const Workplace place;
  const Config config = small_config(place, R"({"precision": {"strategy": "fp32"}, "model": {
    "hidden": 512, "heads": 8, "ffn": 64, "vocabulary": 4224, "tied_embeddings": true}})");
  RandomState(config, 8).save(place / "one", 3, 1);
  constexpr int64_t kMany = 1000;
  FailingDisk counting(kMany);
  const Manifest manifest = consolidate(place / "one", place / "new", counting);
  REQUIRE(manifest.shards.at(0).bytes > 3 * 4 * 4224 * 512);
  REQUIRE(counting.largest_write <= 8 << 20);
  REQUIRE(same_tensors(place / "new/state.safetensors", place / ("one/" + shard_name(0))));
  fs::remove_all(place / "new");
  const int64_t all = kMany - counting.writes_left;  // the header first, the manifest last
  for (const int64_t writes : {int64_t{0}, int64_t{1}, all / 2, all - 1}) {
    FailingDisk failing(writes);
    REQUIRE(error_of([&] { consolidate(place / "one", place / "new", failing); }) == "no space");
    REQUIRE((!fs::exists(place / "new") && !fs::exists(place / "new.partial")));
  }
}

// Catches: the master weight written where forward reads the BF16 one, tensors under our names, a run's devices, ranks
// or table of algorithms asked for on a machine that has none of them.
TEST_CASE(
    "checkpoint consolidate --weights writes what training would have left, wherever it was, and evaluate reads it") {
  const Workplace place;
  place.prepare_corpus();
  const std::string strategy = R"("precision": {"strategy": "mixed"})";
  const Config config = small_config(place, "{" + strategy + "}");
  RandomState state(config, 9);
  state.save(place / "random", 1, 1);
  state.engine.initialise();
  state.save(place / "three", 7, 3);
  Config cluster = small_config(place, R"({"algorithms": "gone.json", "parallel": {
    "zero_stage": 3, "shard_group_size": 8, "device_index": 5}, )" +
                                           strategy + "}");
  cluster.device = "cuda";
  Manifest manifest = read_manifest(place / "three");
  manifest.config = to_json(cluster);
  write_file(place / "three/manifest.json", to_text(manifest));

  Engine engine(config);
  engine.initialise();
  write_weights(place / "expected", cluster, 7, engine.table(), engine.parameters(), engine.backend(), engine.stream());
  REQUIRE(has(place.output_of({"checkpoint", "consolidate", "three", "weights.safetensors", "--weights"}), "step 7"));
  REQUIRE(read_whole(place / "weights.safetensors") == read_whole(place / "expected"));
  place.output_of({"checkpoint", "consolidate", "random", "other.safetensors", "--weights"});
  REQUIRE(!same_tensors(place / "other.safetensors", place / "expected"));
  REQUIRE(has(place.output_of({"evaluate", "other.safetensors"}), "perplexity"));
}

// Catches: a command that works on hand-made checkpoints alone; a consolidated one from which a run cannot resume, or
// resumes to other bits; weights of the newest checkpoint that are not those of the run.
TEST_CASE("a run's own checkpoints verify, show its config, and continue from a single file to the same weights") {
  const Workplace place;
  place.prepare_corpus();
  const std::string patch = R"({"name": "NAME", "steps": 4, "evaluation": {"every_steps": 4},
                                "checkpoint": {"every_steps": 2, "keep_last": 9, "resume": "RESUME"}})";
  const auto train = [&](const std::string& name, const std::string& resume) {
    std::string own = patch;
    own.replace(own.find("NAME"), 4, name).replace(own.find("RESUME"), 6, resume);
    place.train(name, own);
  };
  train("a", "auto");
  REQUIRE(lines_of(place.output_of({"checkpoint", "verify", "runs/a"})).size() == 2);
  REQUIRE(has(place.output_of({"checkpoint", "show", "runs/a"}), "run         a, step 4 of 4\n"));
  REQUIRE(place.output_of({"checkpoint", "show", "runs/a", "--config"}) == read_whole(place / "runs/a/config.json"));
  place.output_of({"checkpoint", "consolidate", "runs/a", "newest.safetensors", "--weights"});
  REQUIRE(read_whole(place / "newest.safetensors") == place.weights("a"));

  place.output_of({"checkpoint", "consolidate", "runs/a/checkpoints/step-00000002", "one"});
  place.output_of({"checkpoint", "consolidate", "one", "earlier.safetensors", "--weights"});
  REQUIRE(!same_tensors(place / "earlier.safetensors", place / "newest.safetensors"));
  train("b", "one");
  REQUIRE(place.events("b").size() < place.events("a").size());  // two steps less
  REQUIRE(same_tensors(place / "runs/a/weights.safetensors", place / "runs/b/weights.safetensors"));
}

// Catches: a command without help or example, a misspelled one that only earns the parser's words.
TEST_CASE("checkpoint says what it can do, each of its commands too, and refuses what it cannot") {
  const Workplace place;
  for (const std::string command : {"list", "verify", "show", "consolidate"}) {
    INFO(command);
    REQUIRE(has(place.output_of({"checkpoint", "--help"}), "\n  " + command + " "));
    const std::string own = place.output_of({"checkpoint", command, "--help"});
    REQUIRE((has(own, "Usage: dither checkpoint " + command) && has(own, ":\n  dither checkpoint " + command)));
    const Outcome bare = place.run({"checkpoint", command});
    REQUIRE(bare.status == 2);
    REQUIRE((has(bare.err, "is required") && has(bare.err, "--help")));
  }
  const Outcome none = place.run({"checkpoint"}), other = place.run({"checkpoint", "check"});
  REQUIRE((none.status == 2 && has(none.err, "allowed: list, verify, show, consolidate")));
  REQUIRE((other.status == 2 && has(other.err, "check") && has(other.err, "--help")));
}

}  // namespace dither::test
