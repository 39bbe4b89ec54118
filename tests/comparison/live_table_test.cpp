// The table of a study that goes on, and the plain lines in its place.
#include "src/comparison/live_table.h"

#include "tests/catch.h"
#include "tests/comparison/hand_made.h"

namespace dither::test {

namespace {

/// A study of eight runs of 40 steps: four completed, one failed, two running, one waiting.
struct Scene {
  Study study;
  std::vector<RunStatus> runs;

  Scene() {
    study.name = "quick";
    study.folder = "runs/quick";
    std::vector<std::string> warnings;
    for (int i = 1; i <= 8; ++i) {
      const std::string name = "run=" + std::to_string(i);
      study.runs.push_back({name, {}, parse_config(config_text(name, 40), "text", {}, warnings)});
    }
    for (const StudyRun& run : study.runs) {
      RunStatus status;
      status.run = &run;
      status.record.config = run.config;
      runs.push_back(status);
    }
    for (size_t i = 0; i < 4; ++i) advance(i, 40, Phase::ended, "completed");
    runs[0].earlier = true;
    runs[4].phase = Phase::ended;
    runs[4].record.error = "error: no memory";
    advance(5, 20, Phase::running, "");
    advance(6, 10, Phase::running, "");
  }

  void advance(size_t i, int steps, Phase phase, const std::string& end) {
    RunRecord& r = runs[i].record;
    for (int step = 1; step <= steps; ++step) {
      StepPoint point;
      point.step = step;
      point.loss = 4 - 0.0625 * step;
      point.step_seconds = 0.5;
      r.steps.push_back(point);
    }
    r.evaluations.emplace_back().step = steps;
    r.evaluations.back().loss = 3.25;
    runs[i].phase = phase;
    r.end_reason = end;
  }

  StudyProgress progress() const { return {study, runs, 2, 1, 75}; }
};

}  // namespace

// Catches: steps of finished runs counted as work done now, the rate of one run taken for that of all.
TEST_CASE("the title counts the runs and estimates the time left") {
  const std::vector<std::string> lines = table_lines(Scene().progress(), 200, 50);
  // Since the start 3 * 40 + 20 + 10 = 150 steps took 75 s; 20 + 30 + 40 = 90 are left.
  REQUIRE(lines[0] == "quick: 5 of 8 runs ended (1 not well), 2 at work with 1 thread each    1m15s, ETA 45s");
}

// Catches: a column of another run, the loss of a run that has none, a failure without its reason.
TEST_CASE("the table has a line for every run") {
  const std::vector<std::string> lines = table_lines(Scene().progress(), 200, 50);
  REQUIRE(lines.size() == 10);
  REQUIRE(lines[1] == "run    state                        step      loss    valid.      tok/s");
  REQUIRE(lines[2] == "run=1  completed earlier           40/40    1.5312    3.2500        256");
  REQUIRE(lines[6] == "run=5  failed                       0/40         -         -          -  error: no memory");
  REQUIRE(lines[7] == "run=6  running                     20/40    2.7500    3.2500        256");
  REQUIRE(lines[9] == "run=8  waiting                      0/40         -         -          -");
}

// Catches: a table that scrolls because it is a line too high or wraps, and the runs that matter cut off.
TEST_CASE("a low terminal shows the running and the failed runs and counts the others") {
  const Scene scene;
  const std::vector<std::string> lines = table_lines(scene.progress(), 40, 6);
  REQUIRE(lines.size() == 6);
  for (const std::string& line : lines) REQUIRE(line.size() <= 40);
  REQUIRE(has(lines[2], "run=5"));
  REQUIRE(has(lines[3], "run=6"));
  REQUIRE(has(lines[4], "run=7"));
  REQUIRE(lines[5] == "and 1 completed earlier, 3 completed, 1 ");
  REQUIRE(table_lines(scene.progress(), 200, 5).size() == 5);
  REQUIRE(has(table_lines(scene.progress(), 200, 5).back(), "1 running"));
  REQUIRE(table_lines(scene.progress(), 200, 10).size() == 10);
  REQUIRE(table_lines(scene.progress(), 200, 9).size() == 6);
}

// Catches: a line at every look, control sequences in a log file.
TEST_CASE("away from a terminal a run has one line where it starts and one where it ends") {
  Scene scene;
  std::FILE* file = std::tmpfile();
  LiveTable table(file);
  table.show(scene.progress());
  table.show(scene.progress());
  scene.advance(5, 20, Phase::ended, "completed");
  table.show(scene.progress());
  std::string text(static_cast<size_t>(std::ftell(file)), '\0');
  std::rewind(file);
  REQUIRE(std::fread(text.data(), 1, text.size(), file) == text.size());
  std::fclose(file);
  REQUIRE(text ==
          "[1/8] run=1: completed earlier, 40 steps, loss 1.5312, validation loss 3.2500\n"
          "[2/8] run=2: completed, 40 steps, loss 1.5312, validation loss 3.2500\n"
          "[3/8] run=3: completed, 40 steps, loss 1.5312, validation loss 3.2500\n"
          "[4/8] run=4: completed, 40 steps, loss 1.5312, validation loss 3.2500\n"
          "[5/8] run=5: failed (error: no memory), 0 steps, loss -, validation loss -\n"
          "[6/8] run=6: started, 40 steps\n"
          "[7/8] run=7: started, 40 steps\n"
          "[6/8] run=6: completed, 20 steps, loss 2.7812, validation loss 3.2500\n");
}

}  // namespace dither::test
