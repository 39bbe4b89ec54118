// Runs that are killed, asked to stop or to save, and started again; and two runs on one folder.
#include <chrono>
#include <csignal>
#include <filesystem>

#include "tests/catch.h"
#include "tests/commands/saved_runs.h"

namespace dither::test {

namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

/// A run that does not end by itself, with a learning rate that stays: so many steps of it are a run of so many steps.
SavedRuns endless(const std::string& checkpoint) {
  return SavedRuns(R"({"steps": 4000000000, "optimizer": {"schedule": {"kind": "constant"}}, "evaluation":
                   {"every_steps": 0}, "logging": {"measure_every_steps": 0}, "checkpoint": )" +
                   checkpoint + "}");
}

void await_step(const SavedRuns& place, const std::string& name, int64_t step) {
  await([&] { return place.last_step(name) >= step; });
}

/// Kills a run of this strategy, goes on with it, and holds all that it then has against a run that was never killed.
void check_kill(const std::string& strategy) {
  constexpr int64_t kSteps = 160;
  const SavedRuns place(R"({"precision": {"strategy": ")" + strategy + R"("}, "steps": 160,
    "model": {"ffn": 64}, "evaluation": {"every_steps": 30, "tokens": 128}, "logging": {"measure_every_steps": 10},
    "optimizer": {"learning_rate": 3e-6}, "guards": {"loss_z": 0.3, "window": 24, "stop_after_skips": 1000},
    "checkpoint": {"every_steps": 20}})");
  place.train("whole");
  const int64_t killed = place.kill_in_mid_run("a", kSteps);
  const Steps kept = place.checkpoints("a");
  place.train("a");
  const Json resume = place.last_event("a", "resume");
  const int64_t from = resume.at("step");
  INFO(strategy << " killed behind step " << killed << ", resumed from " << from);
  REQUIRE((from >= 20 && from == kept.back()));
  REQUIRE(place.first_step("a") == from + 1);
  REQUIRE((place.history("a") == place.history("whole")));
  REQUIRE((place.state("a", kSteps) == place.state("whole", kSteps)));
  REQUIRE((place.tensors("a") == place.tensors("whole")));

  // The comparison would see a window that begins anew: steps were skipped while it would have been too short to skip.
  constexpr int64_t kLeast = 16;
  int64_t skipped = 0;
  for (const Json& event : place.all_events("whole", "guard")) {
    const int64_t step = event.at("step");
    REQUIRE(event.at("reason") == "loss z-score");
    if (step > from && step <= from + kLeast) ++skipped;
  }
  REQUIRE(skipped > 0);
}

}  // namespace

// Catches, here and in the three that follow: a component of the state that is not saved, random bits that depend on
// when the process began, windows of the guards or counts of skipped steps that begin anew, samples seen twice or
// never, an evaluation that leaves traces, metrics that readers put together to another run.
TEST_CASE("a bf16_sr run that was killed and goes on has the losses, EDQ, state and weights of one that was not") {
  check_kill("bf16_sr");
}
TEST_CASE("a collage_plus run that was killed and goes on has the losses, EDQ, state and weights of one that was not") {
  check_kill("collage_plus");
}
TEST_CASE("a mixed run that was killed and goes on has the losses, EDQ, state and weights of one that was not") {
  check_kill("mixed");
}
TEST_CASE("a split32 run that was killed and goes on has the losses, EDQ, state and weights of one that was not") {
  check_kill("split32");
}

// Catches: a stop without a checkpoint or without weights, a checkpoint of the step before or after, a run that cannot
// be gone on with because its weights are there.
TEST_CASE("SIGTERM saves the step at hand and the weights, and the run goes on from there") {
  const SavedRuns place = endless(R"({"every_steps": 1000000})");
  const int64_t first = place.stop("a", [&] { return place.last_step("a") >= 3; });
  REQUIRE(first >= 3);
  REQUIRE(place.checkpoints("a") == Steps{first});
  REQUIRE(place.written("a") == Steps{first});
  REQUIRE(place.last_step("a") == first);
  place.output_of({"checkpoint", "consolidate", "runs/a", "saved.safetensors", "--weights"});
  REQUIRE((read_whole(place / "saved.safetensors") == place.weights("a")));

  const int64_t second =
      place.stop("a", [&] { return place.all_events("a", "resume").size() == 1 && place.last_steps("a").size() >= 3; });
  REQUIRE(place.last_event("a", "resume").at("step") == first);
  REQUIRE(second >= first + 3);
  place.train("whole", {"steps=" + std::to_string(second), "evaluation.every_steps=0"});
  REQUIRE((place.tensors("a") == place.tensors("whole")));
  REQUIRE((place.state("a", second) == place.state("whole", second)));
}

// Catches: a request that ends the run, one that works once, a checkpoint of another step than the metrics say.
TEST_CASE("SIGUSR1 under on_signal continue saves as often as it comes, and the run goes on") {
  const SavedRuns place = endless(R"({"every_steps": 1000000, "on_signal": "continue"})");
  Program program(place.path(), SavedRuns::words("a"));
  int64_t seen = 0;
  for (size_t request = 1; request <= 2; ++request) {
    await_step(place, "a", seen + 3);
    program.send(SIGUSR1);
    await([&] { return place.all_events("a", "checkpoint").size() == request; });
    seen = place.last_step("a");
  }
  await_step(place, "a", seen + 3);
  program.send(SIGTERM);
  const Outcome outcome = program.wait();
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 0);
  const Steps steps = place.written("a");
  REQUIRE(steps.size() == 3);
  REQUIRE((steps[0] < steps[1] && steps[1] < steps[2]));
  REQUIRE(steps[2] == place.last_event("a", "end").at("step"));
  REQUIRE(place.checkpoints("a") == steps);
  place.verify("a");
}

// Catches: minutes taken for seconds or steps, a clock that is set once, a checkpoint at every step once the first was
// due.
TEST_CASE("every_minutes saves by the clock") {
  constexpr double kMinutes = 0.01;
  const SavedRuns place = endless(R"({"every_steps": 0, "every_minutes": 0.01})");
  const auto begin = std::chrono::steady_clock::now();
  place.stop("a", [&] { return place.all_events("a", "checkpoint").size() >= 2; });
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const auto count = static_cast<double>(place.written("a").size());
  REQUIRE(count >= 3);                              // two by the clock, one by the signal
  REQUIRE(count <= 1 + seconds / (60 * kMinutes));  // each of the others has waited for so long
}

// Catches: an empty folder that looks like a run with checkpoints, one that a signal makes.
TEST_CASE("a run without checkpoints makes no folder for them, by SIGTERM neither") {
  const SavedRuns place = endless(R"({"every_steps": 0, "every_minutes": 0})");
  place.train("a", {"steps=3"});
  place.stop("b", [&] { return place.last_step("b") >= 3; });
  for (const char* name : {"a", "b"}) {
    REQUIRE(!fs::exists(place.folder(name) + "/checkpoints"));
    REQUIRE(place.all_events(name, "checkpoint").empty());
    REQUIRE(has(place.refusal(name, {"steps=3"}), "which has ended and has no checkpoints"));
  }
}

// Catches: two runs that write over each other, a lock that outlives its holder, a message that does not say whom to
// wait for; --overwrite of a folder in which somebody trains.
TEST_CASE("a second run on a folder is refused with the pid of the first, and starts once that was killed") {
  const SavedRuns place = endless(R"({"every_steps": 20})");
  {
    Program first(place.path(), SavedRuns::words("a"));
    await([&] { return !place.all_events("a", "checkpoint").empty(); });
    std::string holder = read_whole(place.folder("a") + "/lock");
    REQUIRE(holder.rfind("pid ", 0) == 0);
    holder.pop_back();
    REQUIRE(has(read_whole("/proc/" + std::to_string(std::stol(holder.substr(4))) + "/cmdline"), "dither"));
    for (const std::string flag : {"", "--overwrite"}) {
      std::vector<std::string> words = SavedRuns::words("a");
      if (!flag.empty()) words.push_back(flag);
      const Outcome second = place.run(words);
      INFO(second.err);
      REQUIRE(second.status == 2);
      REQUIRE(has(second.err, "error: runs/a is in use: " + holder + " trains there\n       cures: wait for it, or "));
    }
    const int64_t seen = place.last_step("a");
    await_step(place, "a", seen + 3);  // the first was not disturbed
    first.send(SIGKILL);
    REQUIRE(first.wait().status == 128 + SIGKILL);
  }
  place.stop("a", [&] { return place.all_events("a", "resume").size() == 1 && place.last_steps("a").size() >= 3; });
}

}  // namespace dither::test
