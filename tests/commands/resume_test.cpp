// Where a run begins: each field of the table "How a run resumes" in docs/checkpoint-format.md, and what happens where
// the config is not that of the run which wrote the checkpoint.
#include <cmath>
#include <cstddef>
#include <cstring>
#include <filesystem>

#include "src/checkpoint/checkpoint_folder.h"
#include "src/checkpoint/manifest.h"
#include "src/checkpoint/safetensors.h"
#include "tests/catch.h"
#include "tests/commands/saved_runs.h"

namespace dither::test {

namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

constexpr int64_t kNothing = -1, kBegins = 0;  // instead of a step that a run goes on from

/// One field of the table: what is asked for, and what must come of it.
struct Field {
  std::string resume;
  int64_t from;      // kNothing, kBegins, or a step
  std::string path;  // of the checkpoint that it goes on from
  std::string says;
};

/// The folders that the table speaks of: runs/whole was never interrupted, runs/other is another run of the same
/// config with the checkpoint of step 2, runs/empty is none. Each case makes runs/a anew.
class Table : public SavedRuns {
 public:
  Table() {
    train("whole");
    copy_killed("whole", "other", 2);
    fs::create_directories(folder("empty"));
  }

  /// Trains runs/a as `prepare` leaves it. A run that is refused must leave all as it was; one that goes on must end
  /// with everything that runs/whole has.
  void check(const std::function<void()>& prepare, const Field& field, const Settings& more = {}) const {
    fs::remove_all(folder("a"));
    prepare();
    const auto before = content("a");
    const size_t resumes_before = all_events("a", "resume").size();
    Settings settings = {"checkpoint.resume=" + field.resume};
    settings.insert(settings.end(), more.begin(), more.end());
    const Outcome outcome = attempt("a", settings);
    INFO("resume=" << field.resume << "\n" << outcome.out << outcome.err);
    const bool refused = field.from == kNothing && !has(field.says, "nothing to do");
    REQUIRE(outcome.status == (refused ? 2 : 0));
    REQUIRE(has(refused ? outcome.err : outcome.out, (refused ? "error: " : "") + field.says));
    if (field.from == kNothing) {
      REQUIRE((content("a") == before));
      return;
    }
    REQUIRE(first_step("a") == field.from + 1);
    const int64_t after = has(field.path, "other") ? field.from : 0;  // what was before is not this run's
    REQUIRE((history("a", after) == history("whole", after)));
    REQUIRE((tensors("a") == tensors("whole")));
    REQUIRE((state("a", 6) == state("whole", 6)));
    const std::vector<Json> resumes = all_events("a", "resume");
    if (field.path.empty()) {
      for (size_t i = resumes_before; i < resumes.size(); ++i) REQUIRE(resumes[i].at("from") == "");
      return;
    }
    REQUIRE(resumes.size() == resumes_before + 1);
    REQUIRE(resumes.back().at("step") == field.from);
    REQUIRE(resumes.back().at("from") == field.path);
    REQUIRE(has(outcome.out, "resuming from " + field.path + ": step " + std::to_string(field.from) + " of 6, " +
                                 std::to_string(4 * field.from) + " samples consumed; written by 1 rank"));
  }
};

const std::string kOwn2 = "runs/a/checkpoints/step-00000002", kOwn4 = "runs/a/checkpoints/step-00000004",
                  kOwn6 = "runs/a/checkpoints/step-00000006", kOther2 = "runs/other/checkpoints/step-00000002";

/// A copy of the corpus in other/ of which one token is another.
void other_data(const SavedRuns& place) {
  fs::copy(place / "data", place / "other", fs::copy_options::recursive);
  std::string bytes = read_whole(place / "other/train_000000.bin");
  bytes.at(1024 + 2 * 40) ^= 1;
  write_file(place / "other/train_000000.bin", bytes);
}

/// How many of the 16-bit values differ.
int64_t differences(const std::string& left, const std::string& right) {
  REQUIRE((left.size() == right.size() && left.size() % 2 == 0));
  int64_t count = 0;
  for (size_t i = 0; i < left.size(); i += 2) count += left.compare(i, 2, right, i, 2) != 0 ? 1 : 0;
  return count;
}

/// Weights that forward sees otherwise under split32 than under mixed: of masters halfway between two BF16 numbers, of
/// which split32 takes the one farther from 0. There must be no others.
struct Ties {
  int64_t count = 0, others = 0;
};

Ties ties_of(const std::string& mixed, const std::string& split32) {
  const SafetensorsFile from(mixed), to(split32);
  Ties ties;
  for (const SafetensorsTensor& weight : to.tensors()) {
    if (weight.name.rfind("weight/", 0) != 0) continue;
    const auto* there = reinterpret_cast<const uint16_t*>(from.at(weight.name).data);
    const auto* here = reinterpret_cast<const uint16_t*>(weight.data);
    const std::byte* masters = from.at("weight_extra/" + weight.name.substr(7)).data;
    for (int64_t i = 0; i < weight.bytes() / 2; ++i) {
      uint32_t master = 0;
      std::memcpy(&master, masters + 4 * i, sizeof master);
      if (here[i] == there[i]) continue;
      const bool tie = (master & 0xffff) == 0x8000 && here[i] == there[i] + 1;
      ++(tie ? ties.count : ties.others);
    }
  }
  return ties;
}

}  // namespace

// Catches: a path that is ignored in a new folder, a folder made for a run that is refused, a checkpoint of its own
// that
// --overwrite deletes before it is read.
TEST_CASE("resume where the folder does not exist begins, or begins behind the checkpoint that is named") {
  const Table table;
  const auto missing = [] {};
  for (const Field& field :
       std::vector<Field>{{"auto", kBegins, "", ""},
                          {"never", kBegins, "", ""},
                          {kOther2, 2, kOther2, ""},
                          {"runs/other", 2, kOther2, "runs/other/checkpoints holds the checkpoints of step 2"},
                          {"runs/nothing", kNothing, "", "checkpoint.resume: runs/nothing does not exist"},
                          {"runs/empty", kNothing, "", "checkpoint.resume: runs/empty is no checkpoint and has none"},
                          {kOwn2, kNothing, "", "checkpoint.resume: " + kOwn2 + " does not exist"}}) {
    table.check(missing, field);
  }
}

// Catches: the oldest checkpoint taken, or that of another run instead of the own; a path that undoes steps whose
// checkpoints stay; --overwrite that goes on, or deletes what it is to begin from.
TEST_CASE("resume where there are checkpoints goes on from the newest, whatever is named") {
  const Table table;
  const auto killed = [&table] { table.copy_killed("whole", "a", 4); };
  const std::string holds = "runs/a/checkpoints holds the checkpoints of step 2, 4";
  const std::string own = "checkpoint.resume names where the run began; it goes on from its own";
  for (const Field& field : std::vector<Field>{
           {"auto", 4, kOwn4, holds},
           {"never", kNothing, "", "runs/a exists: it holds an earlier run, and checkpoint.resume is \"never\""},
           {kOwn4, 4, kOwn4, ""},
           {kOwn2, kNothing, "", "checkpoint.resume: " + kOwn2 + " is not this run's newest, which is " + kOwn4},
           {kOther2, 4, kOwn4, own},
           {"runs/other", 4, kOwn4, own},
           {"runs/nothing", 4, kOwn4, own}}) {
    table.check(killed, field);
  }
}

// Catches: an --overwrite that goes on with what it deletes, or deletes the very checkpoint it is to begin from.
TEST_CASE("resume under --overwrite begins, and refuses a checkpoint that would be deleted") {
  const Table table;
  for (const std::string& named : Settings{kOwn4, "runs/a", kOther2, "auto"}) {
    table.copy_killed("whole", "a", 4);
    const auto before = table.content("a");
    std::vector<std::string> words = SavedRuns::words("a", {"checkpoint.resume=" + named});
    words.push_back("--overwrite");
    const Outcome outcome = table.run(words);
    INFO(named << "\n" << outcome.out << outcome.err);
    const bool own = named == kOwn4 || named == "runs/a";
    REQUIRE(outcome.status == (own ? 2 : 0));
    if (own) {
      REQUIRE(has(outcome.err, "error: checkpoint.resume: " + named + " would be deleted by --overwrite"));
      REQUIRE((table.content("a") == before));
      continue;
    }
    REQUIRE((table.tensors("a") == table.tensors("whole")));
    REQUIRE(table.all_events("a", "step").size() == (named == "auto" ? 6 : 4));
    REQUIRE(table.all_events("a", "start").size() == 1);
  }
}

// Catches: a run that was killed early and can never be started again, one that takes up half a checkpoint, leftovers
// that stay, a run of another config that begins over it.
TEST_CASE("resume where a run was killed before its first checkpoint begins again") {
  const Table table;
  const auto killed = [&table] {
    table.copy_killed("whole", "a", 0);
    fs::copy(table.checkpoint("whole", 6), table.checkpoint("a", 6) + ".partial");
    fs::copy(table.checkpoint("whole", 4), table.checkpoint("a", 4) + ".removed");
  };
  const std::string again = "runs/a holds a run that ended before its first checkpoint: it begins again";
  const std::string never = "runs/a exists: it holds an earlier run, and checkpoint.resume is \"never\"";
  for (const Field& field :
       std::vector<Field>{{"auto", kBegins, "", again + " at step 1"},
                          {"never", kNothing, "", never},
                          {kOther2, 2, kOther2, again + " behind"},
                          {"runs/other", 2, kOther2, again + " behind"},
                          {"runs/nothing", kNothing, "", "checkpoint.resume: runs/nothing does not exist"}}) {
    table.check(killed, field);
    if (field.from == kNothing) continue;
    REQUIRE(!fs::exists(table.checkpoint("a", 6) + ".partial"));
    REQUIRE(!fs::exists(table.checkpoint("a", 4) + ".removed"));
    REQUIRE(table.last_event("a", "resume").at("step") == field.from);
  }
  const std::string other = "runs/a exists: it holds a run of another config: seed 1337 there, 7 here";
  table.check(killed, {"auto", kNothing, "", other}, {"seed=7"});
}

// Catches: the weights of a finished run overwritten because nobody looked at them.
TEST_CASE("resume where a run without checkpoints has ended is an error") {
  const Table table;
  const auto ended = [&table] {
    table.copy_run("whole", "a");
    fs::remove_all(table.folder("a") + "/checkpoints");
  };
  const std::string exists = "runs/a exists: it holds an earlier run, ";
  const std::string has_ended = exists + "which has ended and has no checkpoints";
  for (const Field& field : std::vector<Field>{{"auto", kNothing, "", has_ended},
                                               {"never", kNothing, "", exists + "and checkpoint.resume is \"never\""},
                                               {kOther2, kNothing, "", has_ended},
                                               {"runs/other", kNothing, "", has_ended},
                                               {"runs/nothing", kNothing, "", has_ended}}) {
    table.check(ended, field);
  }
}

// Catches: a complete run that is trained again or grows a second end, a status that stops a chain of jobs, weights
// that are never written because the last step was done already, those of a stop taken for the last.
TEST_CASE("resume where a run is complete does nothing, and writes the weights where only they are missing") {
  const Table table;
  const auto complete = [&table] { table.copy_run("whole", "a"); };
  const std::string nothing =
      "runs/a is complete, all 6 steps are done and its weights are in "
      "runs/a/weights.safetensors: nothing to do";
  for (const Field& field : std::vector<Field>{
           {"auto", kNothing, "", nothing},
           {"never", kNothing, "", "runs/a exists: it holds an earlier run, and checkpoint.resume is \"never\""},
           {kOwn6, kNothing, "", nothing},
           {kOther2, kNothing, "", nothing},
           {"runs/other", kNothing, "", nothing},
           {"runs/nothing", kNothing, "", nothing}}) {
    table.check(complete, field);
  }

  // Killed behind the last checkpoint: before the weights were written, or while those of an earlier stop were there.
  for (const bool has_old_weights : {false, true}) {
    INFO("old weights: " << has_old_weights);
    table.copy_killed("whole", "a", 6);
    if (has_old_weights) write_file(table.folder("a") + "/weights.safetensors", "of an earlier step");
    table.train("a");
    REQUIRE(table.last_steps("a").empty());
    REQUIRE(table.last_event("a", "end").at("step") == 6);
    REQUIRE((table.tensors("a") == table.tensors("whole")));
  }
}

// Catches: a run that silently becomes another one, a message that leaves the key, a value or the way out to be
// guessed.
TEST_CASE("auto refuses another config or other data by key, both values and cures") {
  const SavedRuns place;
  place.train("whole");
  place.copy_killed("whole", "a", 4);
  const auto before = place.content("a");
  const std::string there = "runs/a/checkpoints/step-00000004: it was written with ";
  const auto check = [&](const std::string& setting, const std::string& difference) {
    const std::string error = place.refusal("a", {setting});
    INFO(setting << "\n" << error);
    REQUIRE(error.rfind("error: " + there + difference + "\n", 0) == 0);
    REQUIRE(has(error,
                "cures: the config and data of that run, --set name=... for another run, --overwrite, or "
                "checkpoint.resume=runs/a/checkpoints/step-00000004 to take up its state in spite of that"));
    REQUIRE((place.content("a") == before));
  };
  const std::string config = "another config: ";
  check("optimizer.learning_rate=0.004", config + "optimizer.learning_rate 0.002 there, 0.004 here");
  check("seed=7", config + "seed 1337 there, 7 here");
  check("steps=8", config + "steps 6 there, 8 here");
  check("model.ffn=64", config + "model.ffn 96 there, 64 here");
  check("guards.loss_z=3", config + "guards.loss_z 0.0 there, 3.0 here");
  other_data(place);
  check("data.train=other/train_*.bin", "other training data");
  fs::copy(place / "other", place / "data", fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  check("seed=1337", "other training data");
}

// Catches: a list of keys that may differ which has grown or shrunk, bits that depend on one of them.
TEST_CASE("auto goes on to the same bits with other threads, stage, evaluations, logs, checkpoints and paths of data") {
  const SavedRuns place;
  fs::copy(place / "data", place / "more", fs::copy_options::recursive);
  place.train("whole");
  place.copy_killed("whole", "a", 4);
  const std::string out = place.train(
      "a", {"parallel.threads=2", "parallel.zero_stage=1", "parallel.timeout_seconds=30", "evaluation.every_steps=1",
            "data.train=more/train_*.bin", "data.validation=more/val_*.bin", "sampling.every_steps=5",
            "sampling.tokens=2", "logging.every_steps=2", "checkpoint.every_steps=3", "checkpoint.async=false",
            "checkpoint.keep_last=1", "checkpoint.on_signal=continue"});
  INFO(out);
  REQUIRE(!has(out, "warning"));
  REQUIRE(place.last_steps("a") == Steps{5, 6});
  REQUIRE((place.tensors("a") == place.tensors("whole")));
  REQUIRE((place.state("a", 6) == place.state("whole", 6)));
}

// Catches: a named checkpoint refused for what its user has changed on purpose, a change without a word, a state that
// is not taken up; tensors of another shape that are read as far as they go.
TEST_CASE("a named checkpoint is taken up with a warning where the config differs, and refused where it cannot fit") {
  const SavedRuns place;
  place.train("whole");
  place.copy_killed("whole", "a", 4);
  other_data(place);
  const std::string named = "checkpoint.resume=" + kOwn4;
  const auto before = place.content("a");
  const std::string error = place.refusal("a", {named, "model.ffn=64"});
  INFO(error);
  REQUIRE(has(error, "error: " + kOwn4 + ": "));
  REQUIRE(has(error, "blocks.0."));
  REQUIRE((place.content("a") == before));
  // A vocabulary with the same padding has tensors of the same shapes.
  REQUIRE(has(place.refusal("a", {named, "model.vocabulary=300"}),
              kOwn4 + ": model.vocabulary is 257 there, 300 here: it is another model's checkpoint"));
  REQUIRE(has(place.refusal("a", {named, "steps=3"}), kOwn4 + ": it is of step 4, and steps is 3"));

  const std::string out = place.train("a", {named, "optimizer.learning_rate=0.004", "seed=7", "steps=8",
                                            "optimizer.weight_decay=0", "data.train=other/train_*.bin"});
  INFO(out);
  REQUIRE(has(out, "warning: " + kOwn4 + " was written with another config: seed 1337 there, 7 here, "));
  REQUIRE(has(out, ", and 1 more"));
  REQUIRE(has(out, "warning: " + kOwn4 + " was written with other training data\n"));
  REQUIRE(has(read_whole(place.folder("a") + "/log.txt"), "was written with another config"));
  REQUIRE(place.last_steps("a") == Steps{5, 6, 7, 8});
  REQUIRE(place.last_event("a", "step").at("learning_rate") == Approx(0.1 * 0.004));
  REQUIRE((place.tensors("a") != place.tensors("whole")));
  REQUIRE(place.last_event("a", "resume").at("step") == 4);
}

// Catches: another strategy taken up without leave, a conversion that loses the master's digits, converted weights that
// do not get to the model, moments that begin at zero.
TEST_CASE("another strategy needs leave, converts exactly from mixed to split32 and back, and goes on learning") {
  const SavedRuns place(
      R"({"precision": {"strategy": "mixed", "gradient": "fp32"}, "steps": 12, "checkpoint": {"every_steps": 6},
                            "optimizer": {"learning_rate": 5e-3, "schedule": {"kind": "constant"}}})");
  place.train("a");
  const std::string change = "precision.strategy=split32";
  const std::string error = place.refusal("b", {"checkpoint.resume=runs/a", change});
  INFO(error);
  REQUIRE(
      has(error,
          "runs/a/checkpoints/step-00000012: it was written under another precision section: precision.strategy mixed "
          "there, split32 here\n       cure: checkpoint.allow_strategy_change=true"));
  REQUIRE(!fs::exists(place.folder("b")));

  const std::string leave = "checkpoint.allow_strategy_change=true";
  const std::string out = place.train("b", {"checkpoint.resume=runs/a", change, leave});
  REQUIRE(has(
      out,
      "warning: the state is taken over into another precision section: precision.strategy mixed there, split32 here"));
  REQUIRE(place.last_steps("b").empty());
  const Ties ties = ties_of(place.shard("a", 12), place.shard("b", 12));
  REQUIRE(ties.others == 0);
  REQUIRE(differences(place.tensors("b"), place.tensors("a")) == ties.count);
  REQUIRE((read_whole(place.shard("b", 12)) != read_whole(place.shard("a", 12))));
  place.train("c", {"checkpoint.resume=runs/b", leave});
  REQUIRE((place.state("c", 12) == place.state("a", 12)));

  place.copy_killed("a", "d", 6);
  place.train("d", {change, leave});
  const std::vector<Json> steps = place.all_events("d", "step");
  REQUIRE(place.first_step("d") == 7);
  const double before = place.all_events("a", "step").at(5).at("loss"), last = steps.back().at("loss");
  REQUIRE((std::isfinite(last) && last < before));
}

// Catches: a retired key in what an earlier version stored that makes its runs, weights or checkpoints unreadable, one
// that is lost without a word where validation judges something else.
TEST_CASE("what an earlier version stored with evaluation.batches is evaluated, listed and resumed") {
  const SavedRuns place;
  place.train("whole");
  place.copy_killed("whole", "a", 4);
  fs::copy(place.folder("whole") + "/weights.safetensors", place.folder("a") + "/weights.safetensors");
  const auto with_old_key = [](std::string text) {
    for (const auto& [quote, colon] : std::vector<std::pair<std::string, std::string>>{
             {"\"", ": "}, {"\\\"", ": "}, {"\"", ":"}}) {  // config.json, in a text of weights, in a manifest
      std::string now = quote + "tokens" + quote + colon + "131072", then = quote + "batches" + quote + colon + "3";
      then.resize(now.size(), ' ');  // so that no header changes its length
      for (size_t at; (at = text.find(now)) != std::string::npos;) text.replace(at, now.size(), then);
    }
    REQUIRE(has(text, "batches"));
    return text;
  };
  for (const std::string file : {"config.json", "weights.safetensors"}) {
    const std::string path = place.folder("a") + "/" + file;
    write_file(path, with_old_key(read_whole(path)));
  }
  for (const int64_t step : {2, 4}) {
    Manifest manifest = read_manifest(place.checkpoint("a", step));
    manifest.config = with_old_key(manifest.config);
    write_file(place.checkpoint("a", step) + "/" + kManifestName, to_text(manifest));
  }
  REQUIRE(has(place.output_of({"evaluate", "runs/a"}), "counted"));
  REQUIRE(!place.output_of({"sample", "runs/a", "--tokens", "2"}).empty());
  place.verify("a");
  REQUIRE(has(place.output_of({"checkpoint", "list", "runs/a"}), "4"));
  fs::remove(place.folder("a") + "/weights.safetensors");
  const std::string out = place.train("a");
  INFO(out);
  REQUIRE(has(out, "validation judges other targets than before: evaluation.tokens 192 there, 131072 here"));
  REQUIRE(place.last_steps("a") == Steps{5, 6});
  REQUIRE((place.tensors("a") == place.tensors("whole")));
  REQUIRE(!has(read_whole(place.folder("a") + "/config.json"), "batches"));
}

}  // namespace dither::test
