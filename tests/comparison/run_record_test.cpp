// What a run's folder says of it: events, states, reasons.
#include "src/comparison/run_record.h"

#include <fstream>

#include "tests/catch.h"
#include "tests/comparison/hand_made.h"

namespace dither::test {

namespace {

constexpr const char* kMeasures = R"(,"edq":0.5,"edq_full":1.0,"imprecision":25.0)";

/// The record of a run whose metrics are these.
RunRecord record_of(const TemporaryFolder& place, const std::string& metrics) {
  make_run(place / "runs/a", config_text("a", 40), metrics);
  return read_run(place / "runs/a");
}

}  // namespace

// Catches: a field under another field's name, null read as 0, a step counted as measured without measures, a cut line
// that ends the reading or is taken for a whole one.
TEST_CASE("a run is read from its config and its metrics") {
  const TemporaryFolder place;
  const RunRecord r =
      record_of(place, R"({"event":"start","name":"a","parameters":1000,"commit":"abc","shards":"d",)"
                       R"("tokenizer":"k","bytes_per_parameter":8.0})"
                       "\n" +
                           step_event(1, "4.0", std::string(kMeasures) + R"(,"update_to_ulp":3.0)") +
                           step_event(2, "null", kMeasures) + step_event(3, "2.5", R"(,"skipped":true)") +
                           R"({"event":"sample","step":3,"text":"event"})"
                           "\n" +
                           R"({"event":"evaluation","step":3,"loss":3.5,"bits_per_byte":null,"targets":90,)"
                           R"("set_targets":100,"bytes":300,"judged":"j","shards":"s","tokenizer":"k","text":"t"})"
                           "\n" +
                           step_event(4, "1.5").substr(0, 60));
  REQUIRE(r.config.steps == 40);
  REQUIRE(r.commit == "abc");
  REQUIRE(r.parameters == 1000);
  REQUIRE(r.bytes_per_parameter == 8);
  REQUIRE(r.steps.size() == 3);
  REQUIRE(r.steps_done() == 3);
  const StepPoint& first = r.steps[0];
  REQUIRE((first.step == 1 && first.tokens == 128 && first.loss == 4 && first.gradient_norm == 2));
  REQUIRE((first.learning_rate == 0.5 && first.step_seconds == 0.25 && first.tokens_per_second == 512));
  REQUIRE((first.measured && !first.skipped));
  REQUIRE((first.edq == 0.5 && first.edq_full == 1 && first.imprecision == 25 && first.update_to_ulp == 3));
  REQUIRE((std::isnan(r.steps[1].loss) && r.steps[1].measured && std::isnan(r.steps[1].update_to_ulp)));
  REQUIRE((r.steps[2].skipped && !r.steps[2].measured && std::isnan(r.steps[2].edq)));
  REQUIRE(r.evaluations.size() == 1);
  REQUIRE((r.evaluations[0].step == 3 && r.evaluations[0].loss == 3.5 && std::isnan(r.evaluations[0].bits_per_byte)));
  const EvaluationPoint& e = r.evaluations[0];
  REQUIRE((e.targets == 90 && e.set_targets == 100 && e.bytes == 300));
  REQUIRE((e.judged == "j" && e.shards == "s" && e.tokenizer == "k" && e.text == "t"));
  REQUIRE((r.shards == "d" && r.tokenizer == "k"));
  REQUIRE(r.end_reason.empty());
}

// Catches: a reader that takes lines twice, that loses a line which came in two pieces, that reads from the start.
TEST_CASE("metrics are followed while they grow") {
  const TemporaryFolder place;
  const std::string path = place / "metrics.jsonl";
  RunRecord r;
  MetricsReader reader(path);
  REQUIRE(!reader.read(r));  // no file yet
  const auto append = [&path](const std::string& text) { std::ofstream(path, std::ios::app) << text; };
  const std::string second = step_event(2, "3.0");
  append(step_event(1, "4.0") + second.substr(0, 30));
  REQUIRE(reader.read(r));
  REQUIRE(r.steps.size() == 1);
  REQUIRE(!reader.read(r));
  append(second.substr(30));
  REQUIRE(reader.read(r));
  REQUIRE(r.steps.size() == 2);
  REQUIRE(r.steps[1].loss == 3);
  REQUIRE(!reader.read(r));
}

// Catches: steps counted twice after a resume, an end that was none any more, a line cut by the end of the first
// process that swallows the resume.
TEST_CASE("a resume drops the earlier events of later steps") {
  const TemporaryFolder place;
  const RunRecord r = record_of(place, step_event(1, "4.0") + step_event(2, "3.0") + step_event(3, "9.0") +
                                           R"({"event":"evaluation","step":2,"loss":5.0,"bits_per_byte":1.0})"
                                           "\n"
                                           R"({"event":"evaluation","step":3,"loss":6.0,"bits_per_byte":1.0})"
                                           "\n" +
                                           end_event(3, "signal") + step_event(4, "9.0").substr(0, 20) + "\n" +
                                           R"({"event":"resume","step":2})"
                                           "\n" +
                                           step_event(3, "2.0"));
  REQUIRE(r.steps.size() == 3);
  REQUIRE(r.steps[2].loss == 2);
  REQUIRE(r.evaluations.size() == 1);
  REQUIRE(r.end_reason.empty());
}

// Catches: skipped steps that were done again and kept their skip, a resume that drops its own step, one at step 0 that
// leaves figures of the first attempt, events between resumes dropped by the wrong one, checkpoints taken for steps, a
// program that had its part forgotten.
TEST_CASE("each resume drops what lies behind its step, skips too, and one at step 0 drops all") {
  const auto guard = [](int step, int in_a_row, const std::string& reason) {
    return R"({"event":"guard","step":)" + std::to_string(step) + R"(,"reason":")" + reason +
           R"(","skipped_in_a_row":)" + std::to_string(in_a_row) + "}\n";
  };
  const auto resume = [](int step, const std::string& commit) {
    return R"({"event":"start","parameters":7,"commit":")" + commit + "\"}\n" + R"({"event":"resume","step":)" +
           std::to_string(step) + R"(,"from":"runs/a/checkpoints/step-00000002","ranks":4,"zero_stage":2,"commit":")" +
           commit + "\"}\n";
  };
  const std::string evaluation = R"({"event":"evaluation","step":2,"loss":5.0,"bits_per_byte":1.0})"
                                 "\n";
  const std::string checkpoint = R"({"event":"checkpoint","step":2,"path":"runs/a/checkpoints/step-00000002"})"
                                 "\n";
  const std::string first = R"({"event":"start","commit":"abc","parameters":7})"
                            "\n" +
                            step_event(1, "4.0") + step_event(2, "3.0", R"(,"skipped":true)") +
                            guard(2, 1, "gradient z-score") + evaluation + checkpoint +
                            step_event(3, "9.0", R"(,"skipped":true)") + guard(3, 2, "loss not finite") +
                            end_event(3, "skipped");
  const TemporaryFolder place;
  const RunRecord broken = record_of(place, first);
  REQUIRE(reason_of(broken) == "2 steps in a row skipped: loss not finite");

  const RunRecord once = record_of(place, first + resume(2, "abc") + step_event(3, "2.5") + step_event(4, "2.0"));
  REQUIRE(once.steps.size() == 4);
  REQUIRE((once.steps[1].skipped && !once.steps[2].skipped && once.steps[2].loss == 2.5));
  REQUIRE(once.evaluations.size() == 1);
  REQUIRE(once.skips.size() == 1);
  REQUIRE((once.skips[0].step == 2 && once.skips[0].in_a_row == 1 && once.skips[0].reason == "gradient z-score"));
  REQUIRE((once.end_reason.empty() && once.commit == "abc" && once.parameters == 7));

  const RunRecord twice = record_of(place, first + resume(2, "def") + step_event(3, "2.5") + step_event(4, "2.0") +
                                               resume(3, "def") + step_event(4, "1.5") + end_event(4, "completed"));
  REQUIRE(twice.steps.size() == 4);
  REQUIRE((twice.steps[2].loss == 2.5 && twice.steps[3].loss == 1.5));
  REQUIRE((twice.end_reason == "completed" && twice.commit == "abc then def"));

  const RunRecord anew = record_of(place, first + resume(0, "def") + step_event(1, "4.5"));
  REQUIRE((anew.steps.size() == 1 && anew.steps[0].loss == 4.5 && anew.commit == "def"));
  REQUIRE((anew.evaluations.empty() && anew.skips.empty() && anew.end_reason.empty()));
}

// Catches: a run that ended with a number but a worse one called completed, one noisy last step called divergence, a
// killed run called incomplete.
TEST_CASE("the state of a run and its reason follow from how it ended") {
  struct Ending {
    std::string losses[2];  // of the first step, and of all others
    std::string last;       // of the last step; "" : as the others
    std::string end;
    RunState state;
    std::string reason;
  };
  const std::string guard = R"({"event":"guard","step":40,"reason":"gradient not finite","skipped_in_a_row":10})"
                            "\n";
  const auto ending = GENERATE_COPY(values<Ending>({
      {{"4.0", "2.0"}, "", end_event(40, "completed"), RunState::completed, ""},
      {{"4.0", "2.0"}, "5.0", end_event(40, "completed"), RunState::completed, ""},  // mean of two steps: 3.5
      {{"4.0", "5.0"},
       "",
       end_event(40, "completed"),
       RunState::diverged,
       "the final loss 5.0000 is above the first step's 4.0000"},
      {{"4.0", "2.0"}, "null", end_event(40, "completed"), RunState::diverged, "the final loss is not finite"},
      {{"4.0", "2.0"},
       "",
       guard + end_event(40, "skipped"),
       RunState::diverged,
       "10 steps in a row skipped: gradient not finite"},
      {{"4.0", "5.0"}, "", end_event(40, "signal"), RunState::incomplete, "ended by a signal after step 40 of 40"},
      {{"4.0", "2.0"}, "", "", RunState::failed, "killed after step 40 of 40"},
  }));
  const TemporaryFolder place;
  std::string metrics = step_event(1, ending.losses[0]);
  for (int step = 2; step <= 40; ++step) {
    metrics += step_event(step, step == 40 && !ending.last.empty() ? ending.last : ending.losses[1]);
  }
  const RunRecord r = record_of(place, metrics + ending.end);
  INFO(ending.reason);
  REQUIRE(state_of(r) == ending.state);
  REQUIRE(reason_of(r) == ending.reason);
  REQUIRE(is_finished(r) ==
          (ending.end.find("completed") != std::string::npos || ending.end == guard + end_event(40, "skipped")));
}

// Catches: a branch from a late checkpoint judged by its own first batch, a skipped step's loss in the final mean or as
// the first one, a run without any applied step called completed.
TEST_CASE("a run diverges by the losses of its applied steps, and by its first step only if it began at step 1") {
  const auto losses = [](int first, int last, const char* loss) {
    std::string metrics;
    for (int step = first; step <= last; ++step) metrics += step_event(step, loss);
    return metrics;
  };
  const std::string skipped = R"(,"skipped":true)", end = end_event(40, "completed");
  const TemporaryFolder place;
  const auto state = [&place](const std::string& metrics) { return state_of(record_of(place, metrics)); };
  const std::string branch = step_event(21, "2.0") + losses(22, 40, "2.5") + end;
  REQUIRE(state(R"({"event":"resume","step":20})"
                "\n" +
                branch) == RunState::completed);
  REQUIRE(state(step_event(1, "2.0") + losses(2, 40, "2.5") + end) == RunState::diverged);
  REQUIRE(state(step_event(21, "2.0") + losses(22, 40, "null") + end) == RunState::diverged);

  const std::string course = step_event(1, "4.0") + losses(2, 39, "2.0");
  REQUIRE(state(course + step_event(40, "null", skipped) + end) == RunState::completed);
  REQUIRE(state(course + step_event(40, "99.0", skipped) + end) == RunState::completed);
  REQUIRE(train_loss(record_of(place, course + step_event(40, "99.0", skipped) + end)) == 2);
  REQUIRE(state(course + step_event(40, "99.0") + end) == RunState::diverged);
  REQUIRE(state(step_event(1, "null", skipped) + losses(2, 40, "2.0") + end) == RunState::completed);
  REQUIRE(state(step_event(1, "9.0", skipped) + step_event(2, "1.0") + losses(3, 40, "2.0") + end) ==
          RunState::diverged);
  REQUIRE(reason_of(record_of(place, step_event(1, "1.0", skipped) + end_event(1, "completed"))) ==
          "no step was applied");
}

// Catches: a reason looked for in another run's log, the cures of an error taken for the error, a running run called
// failed.
TEST_CASE("a run without an end has failed with what it said last, unless it still runs") {
  const TemporaryFolder place;
  std::filesystem::create_directories(place / "runs/logs");
  write_file(place / "runs/logs/a.txt",
             "error: first\nstep 3\nerror: none.bin does not exist\n       cures: another\n");
  REQUIRE(reason_of(record_of(place, "")) == "error: none.bin does not exist");
  REQUIRE(log_path_of("runs/quick/a/") == log_path_of("runs/quick/a"));

  // The shell holds the file open until its input ends.
  std::FILE* shell = popen(("exec cat >> '" + place / "runs/a/metrics.jsonl'").c_str(), "w");
  REQUIRE(shell != nullptr);
  bool running = false;
  for (int look = 0; look < 200 && !running; ++look) {
    running = read_run(place / "runs/a").running;
    if (!running) usleep(10'000);
  }
  const RunRecord r = read_run(place / "runs/a");
  pclose(shell);
  REQUIRE(running);
  REQUIRE(state_of(r) == RunState::incomplete);
  REQUIRE(reason_of(r) == "still running, after step 0 of 40");
  REQUIRE(state_of(read_run(place / "runs/a")) == RunState::failed);
}

// Catches: a config of another kind taken for a run's.
TEST_CASE("what is not the folder of a run is refused by name") {
  const TemporaryFolder place;
  REQUIRE(has(error_of([&] { read_run(place / "gone"); }), "gone is not the folder of a run"));
  make_run(place / "a", "{\"stepz\": 1}", "");
  REQUIRE(has(error_of([&] { read_run(place / "a"); }), "a/config.json: stepz is not a key"));
}

}  // namespace dither::test
