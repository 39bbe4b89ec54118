// Accidents that must cost no work: readers that go away, signals at a bad time, folders that are removed, names that
// belong to somebody else.
#include <fcntl.h>

#include <csignal>
#include <cstdio>  // renameat2()
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/catch.h"
#include "tests/commands/saved_runs.h"

namespace dither::test {

namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

/// Runs a script in the place, with the program as $1; its exit status.
int shell(const Workplace& place, const std::string& script) {
  write_file(place / "script.sh", "cd '" + place.path() + "' && " + script);
  return WEXITSTATUS(std::system(("bash '" + (place / "script.sh") + "' '" DITHER_BINARY_DIR "/dither'").c_str()));
}

/// A run that evaluates after each step, which takes longer than the step, and does not end by itself.
SavedRuns evaluating() {
  return SavedRuns(R"({"steps": 4000000000, "evaluation": {"every_steps": 1}, "logging": {"measure_every_steps": 0},
                       "optimizer": {"schedule": {"kind": "constant"}}, "checkpoint": {"every_steps": 1000000}})");
}

}  // namespace

// Catches: a run that SIGPIPE kills, or that a failed line ends; a pipeline whose Ctrl-C saves nothing because the
// reader ends first; lines that are missing in log.txt too.
TEST_CASE("a reader that goes away costs a run nothing but its lines there") {
  const SavedRuns place;
  REQUIRE(shell(place, "\"$1\" train c.json --set name=a | head -n 1 >first; exit ${PIPESTATUS[0]}") == 0);
  REQUIRE(!place.weights("a").empty());
  REQUIRE(place.checkpoints("a") == Steps{2, 4, 6});
  const std::string log = read_whole(place.folder("a") + "/log.txt");
  REQUIRE(has(log, "6/6"));
  REQUIRE(has(log, "standard output cannot be written: Broken pipe; training goes on"));
  REQUIRE(shell(place, "\"$1\" train c.json --set name=b >&- 2>&-") == 0);
  REQUIRE((place.tensors("a") == place.tensors("b")));
}

// Catches: "internal error" or a broken pipe's complaint of commands whose output is their work.
TEST_CASE("other commands end without a word when their reader goes away") {
  const SavedRuns place;
  const int killed = 128 + SIGPIPE;
  REQUIRE(shell(place, "{ sleep 0.2; \"$1\" schema 2>err; } | true; exit ${PIPESTATUS[0]}") == killed);
  REQUIRE(read_whole(place / "err").empty());
  REQUIRE(shell(place, "{ sleep 0.2; trap '' PIPE; \"$1\" schema 2>err; } | true; exit ${PIPESTATUS[0]}") == killed);
  REQUIRE(read_whole(place / "err").empty());
}

// Catches: what is printed in the middle of metrics.jsonl, whose file got the number of standard output.
TEST_CASE("descriptors 0 to 2 that are closed at the start are nobody's afterwards") {
  const SavedRuns place;
  REQUIRE(shell(place, "\"$1\" train c.json --set name=a <&- >&- 2>&-") == 0);
  std::istringstream lines(read_whole(place.folder("a") + "/metrics.jsonl"));
  int64_t count = 0;
  for (std::string line; std::getline(lines, line); ++count) REQUIRE(!Json::parse(line, nullptr, false).is_discarded());
  REQUIRE(count > 6);
}

// Catches: a stop that waits for an evaluation, a step that is still done, a checkpoint of another step.
TEST_CASE("after a request to stop nothing is done but to save") {
  for (const int signal : {SIGTERM, SIGHUP}) {
    int64_t not_evaluated = 0;
    // Evaluations take many times as long as steps, so the request comes within one; it may also come just after one,
    // before the next step, whose evaluation is then the last: hence a second attempt.
    for (int attempt = 0; attempt < 2 && not_evaluated == 0; ++attempt) {
      const SavedRuns place = evaluating();
      std::vector<std::string> words = SavedRuns::words("a");
      words.insert(words.end(), {"--set", "data.validation=data/train_*.bin"});
      Program program(place.path(), words);
      await([&] { return place.all_events("a", "evaluation").size() >= 2; });
      program.send(signal);
      program.send(signal);
      const Outcome outcome = program.wait();
      INFO(outcome.out << outcome.err);
      REQUIRE(outcome.status == 0);
      REQUIRE(has(outcome.out, signal == SIGTERM ? "stopped by SIGTERM" : "stopped by SIGHUP"));
      const int64_t last = place.last_step("a");
      not_evaluated = last - place.last_event("a", "evaluation").at("step").get<int64_t>();
      REQUIRE((not_evaluated == 0 || not_evaluated == 1));
      REQUIRE(place.checkpoints("a") == Steps{last});
      REQUIRE(place.last_event("a", "end").at("reason") == "signal");
    }
    REQUIRE(not_evaluated == 1);
  }
}

// Catches: a run of which the evaluation at the end is missing for good, because it counts as complete.
TEST_CASE("a stop in the evaluation at the end is made up for by the same command") {
  const SavedRuns place;
  place.train("whole");
  place.copy_run("whole", "a");
  const std::string metrics = place.folder("a") + "/metrics.jsonl";
  std::string text = read_whole(metrics);
  text.erase(text.rfind("{\"event\":\"evaluation\""));  // as a run leaves it that was stopped there
  write_file(metrics, text + R"({"event":"end","step":6,"reason":"signal","seconds":1.0})" + "\n");
  place.train("a");
  REQUIRE(place.last_steps("a").empty());
  REQUIRE(place.last_event("a", "evaluation").at("loss") == place.last_event("whole", "evaluation").at("loss"));
  REQUIRE(place.last_event("a", "end").at("reason") == "completed");
  REQUIRE(has(place.train("a"), "nothing to do"));
}

// Catches: steps lost to a validation file that somebody damages while the run trains.
TEST_CASE("an evaluation that fails in mid-run is a warning") {
  const SavedRuns place = evaluating();
  Program program(place.path(), SavedRuns::words("a"));
  await([&] { return !place.all_events("a", "evaluation").empty(); });
  const std::string path = place / "data/val_000000.bin";
  {
    std::fstream shard(path, std::ios::binary | std::ios::in | std::ios::out);  // in place
    shard.seekp(1024);
    const std::string beyond(fs::file_size(path) - 1024, '\x7f');
    shard.write(beyond.data(), static_cast<std::streamsize>(beyond.size()));
  }
  await([&] { return has(read_whole(place.folder("a") + "/log.txt"), "warning: evaluation at step "); });
  const int64_t seen = place.last_step("a");
  await([&] { return place.last_step("a") > seen + 2; });
  program.send(SIGTERM);
  const Outcome outcome = program.wait();
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 0);
  REQUIRE(has(outcome.out, "val_000000.bin"));
  REQUIRE(has(outcome.out, "training goes on without it"));
}

// Catches: a run that writes into files without a name until its end, and leaves half a folder.
TEST_CASE("a run's folder that is removed while it trains is made again at the next checkpoint, with all metrics") {
  const SavedRuns place(R"({"steps": 4000000000, "checkpoint": {"every_steps": 10, "keep_last": 2},
                            "evaluation": {"every_steps": 0}, "logging": {"measure_every_steps": 0}})");
  Program program(place.path(), SavedRuns::words("a"));
  await([&] { return !place.written("a").empty(); });
  const std::string config = read_whole(place.folder("a") + "/config.json");
  std::error_code busy;
  do {
    fs::remove_all(place.folder("a"), busy);
  } while (busy);
  await([&] { return fs::exists(place.folder("a") + "/log.txt") && !place.checkpoints("a").empty(); });
  program.send(SIGTERM);
  const Outcome outcome = program.wait();
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 0);
  REQUIRE(has(outcome.out, "was removed or moved while this run trains"));
  REQUIRE(read_whole(place.folder("a") + "/config.json") == config);
  const std::vector<Json> steps = place.all_events("a", "step");
  for (size_t i = 0; i < steps.size(); ++i) REQUIRE(steps[i].at("step") == i + 1);
  REQUIRE(place.all_events("a").front().at("event") == "start");
  REQUIRE(place.checkpoints("a").back() == place.last_event("a", "end").at("step"));
  REQUIRE(!place.weights("a").empty());
  place.verify("a");
}

// Catches: a second attempt that takes the place where another run has begun for its own: checkpoints, weights and
// removals in the other's folder.
TEST_CASE("a run whose folder was moved changes nothing in the folder of another run that has taken its place") {
  const SavedRuns place(R"({"steps": 4000000000, "checkpoint": {"every_steps": 10, "keep_last": 1},
                            "evaluation": {"every_steps": 0}, "logging": {"measure_every_steps": 0}})");
  std::vector<std::string> other = SavedRuns::words("a");
  other.insert(other.end(), {"--set", "seed=5", "--set", "steps=12"});
  REQUIRE(place.run(other).status == 0);
  fs::rename(place.folder("a"), place.folder("moved"));
  Program program(place.path(), SavedRuns::words("a"));
  await([&] { return !place.written("a").empty(); });
  // At once: between two renames the first run might make its folder again.
  REQUIRE(renameat2(AT_FDCWD, place.folder("a").c_str(), AT_FDCWD, place.folder("moved").c_str(), RENAME_EXCHANGE) ==
          0);
  const auto content = place.content("a");
  await([&] {  // three refused checkpoints
    const std::string metrics = read_whole(place.folder("moved") + "/metrics.jsonl");
    size_t refused = 0;
    for (size_t at = 0; (at = metrics.find("another run has begun there", at)) != std::string::npos; ++at) ++refused;
    return refused >= 3;
  });
  program.send(SIGTERM);
  const Outcome outcome = program.wait();
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 2);
  REQUIRE((place.content("a") == content));
}

// Catches: --overwrite that takes any config.json for a run's, or deletes what lies in a run's folder beside its own; a
// refusal without the file's name; a lock left in a folder that was refused.
TEST_CASE("nothing is removed that no run made, and a folder that is refused stays as it was") {
  const SavedRuns place;
  place.train("whole");
  const auto refuse = [&](const std::string& name, const std::string& named, const std::vector<std::string>& flags) {
    const auto before = place.content(name);
    std::vector<std::string> words = SavedRuns::words(name);
    words.insert(words.end(), flags.begin(), flags.end());
    const Outcome outcome = place.run(words);
    INFO(outcome.err);
    REQUIRE(outcome.status == 2);
    REQUIRE(has(outcome.err, "error: runs/" + name));
    REQUIRE(has(outcome.err, named));
    REQUIRE((place.content(name) == before));
    REQUIRE(!fs::exists(place.folder(name) + "/lock"));
  };
  for (const std::string flag : {"", "--overwrite"}) {
    const std::vector<std::string> flags = flag.empty() ? std::vector<std::string>{} : std::vector<std::string>{flag};
    fs::remove_all(place.folder("hf"));
    fs::create_directories(place.folder("hf"));
    write_file(place.folder("hf") + "/config.json",
               R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})");
    refuse("hf", "runs/hf/config.json", flags);
    write_file(place.folder("hf") + "/model.safetensors", "weights");
    refuse("hf", "runs/hf/model.safetensors", flags);
    fs::create_directories(place.folder("own"));
    write_file(place.folder("own") + "/config.json", read_whole(place / "c.json"));  // as a user writes it
    refuse("own", "runs/own/config.json", flags);
    fs::create_directories(place.folder("letters"));
    write_file(place.folder("letters") + "/log.txt", "dear");
    refuse("letters", "runs/letters/log.txt", flags);
  }
  for (const std::string file : {"notes.txt", "checkpoints/best.pt", "checkpoints/step-00000002/notes.txt"}) {
    fs::remove_all(place.folder("a"));
    place.copy_run("whole", "a");
    fs::remove(place.folder("a") + "/lock");
    write_file(place.folder("a") + "/" + file, "mine");
    refuse("a", "runs/a/" + file, {"--overwrite"});
  }
  fs::remove(place.folder("a") + "/checkpoints/step-00000002/notes.txt");
  write_file(place.folder("a") + "/config.json", R"({"a key of another version": 1})");  // its metrics tell whose it is
  write_file(place.folder("a") + "/loss.png", "of scripts/plot_run.py");
  std::vector<std::string> words = SavedRuns::words("a");
  words.push_back("--overwrite");
  place.output_of(words);
  REQUIRE((place.tensors("a") == place.tensors("whole")));
}

// The reader of the output takes nothing until a checkpoint is gone. Catches: a checkpoint called damaged that its run
// has removed in the meantime.
TEST_CASE("checkpoint verify beside a run that removes checkpoints calls none of them damaged") {
  const SavedRuns place;
  place.train("a");
  std::thread remover([&] {
    await([&] { return fs::exists(place / "full"); });
    std::this_thread::sleep_for(std::chrono::seconds(3));  // until the program has listed the folder
    fs::remove_all(place.checkpoint("a", 6));
    write_file(place / "go", "");
  });
  const int status = shell(place, R"( { head -c 65536 /dev/zero; echo >full; "$1" checkpoint verify runs/a; } |
    { while [ ! -e go ]; do sleep 0.02; done; tail -c +65537 >out; }; exit ${PIPESTATUS[0]})");
  remover.join();
  const std::string out = read_whole(place / "out");
  INFO(out);
  REQUIRE(status == 0);
  REQUIRE(has(out, "step-00000002: good"));
  REQUIRE(has(out, "step-00000006: removed meanwhile"));
}

}  // namespace dither::test
