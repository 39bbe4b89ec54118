// runs.csv and curves.csv, cell by cell, of runs whose figures can be computed in one's head.
#include "src/comparison/tables.h"

#include <sstream>

#include "src/config/study.h"
#include "tests/catch.h"
#include "tests/comparison/hand_made.h"

namespace dither::test {

namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// 40 steps with losses 7.875, 7.75, ... 3.0; step 40 takes 1.25 s, all others 0.25 s; measured every 10 steps.
std::string forty_steps() {
  std::string metrics =
      R"({"event":"start","name":"a","parameters":1000,"commit":"abc,\"d\"","shards":"d","tokenizer":"k","bytes_per_parameter":8.0})"
      "\n";
  const char* const measures[] = {"0.125", "0.25", "0.5", "0.75"};
  for (int step = 1; step <= 40; ++step) {
    std::string more;
    if (step % 10 == 0) {
      const std::string value = measures[step / 10 - 1];
      more = ",\"edq\":" + value + ",\"edq_full\":1.0,\"imprecision\":" + value + ",\"update_to_ulp\":2.0";
    }
    if (step == 7) more += ",\"skipped\":true";
    std::string event = step_event(step, std::to_string(8 - 0.125 * step), more);
    if (step == 40) event.replace(event.find("0.25"), 4, "1.25");
    metrics += event;
    if (step == 20)
      metrics += R"({"event":"evaluation","step":20,"loss":6.0,"bits_per_byte":2.5})"
                 "\n";
  }
  return metrics +
         R"({"event":"evaluation","step":40,"loss":3.25,"bits_per_byte":null,"targets":90,"set_targets":100,"bytes":300,)"
         R"("judged":"j","shards":"s","tokenizer":"k","text":"t"})"
         "\n" +
         end_event(40, "completed");
}

}  // namespace

// Catches: means for medians, a mean over the whole run, the middle step counted as late, an evaluation that is not the
// last, cells of another column, NaN written as text, commas and quotes that tear a row.
TEST_CASE("runs.csv has one row a run with the figures of its whole course") {
  const TemporaryFolder place;
  make_run(place / "a", config_text("a", 40), forty_steps());
  make_run(place / "b", config_text("b", 40, R"(, "seed": 2, "optimizer": {"betas": [0.9, 0.999]})"), "");
  const RunRecord a = read_run(place / "a"), b = read_run(place / "b");
  const std::vector<std::string> lines = lines_of(runs_csv({a, b}));
  REQUIRE(lines.size() == 3);
  REQUIRE(lines[0] ==
          "run,folder,config_hash,seed,commit,state,reason,strategy,learning_rate,beta1,beta2,parameters,"
          "bytes_per_parameter,steps,steps_done,tokens,seconds,seconds_per_step,tokens_per_second,train_loss,"
          "validation_loss,bits_per_byte,edq,edq_full,imprecision,update_to_ulp,skipped_steps,validation_targets,"
          "validation_set_targets,validation_bytes,judged,validation_shards,text,tokenizer,training_shards,vary:"
          "optimizer.betas");
  const std::string last_vary = differing_keys({a.config, b.config}).back().values[0];
  REQUIRE(last_vary == "[0.9,0.95]");
  // Train loss: steps 39 and 40, (3.125 + 3.0) / 2. EDQ: steps 30 and 40. Seconds: 39 * 0.25 + 1.25.
  REQUIRE(lines[1] == "a," + place / "a" + "," + config_hash(a.config) +
                          ",1337,\"abc,\"\"d\"\"\",completed,,bf16_sr,0.0006,0.9,0.95,1000,8,40,40,5120,11,0.25,512,"
                          "3.0625,3.25,,0.625,1,0.625,2,1,90,100,300,j,s,t,k,d,\"[0.9,0.95]\"");
  REQUIRE(lines[2] == "b," + place / "b" + "," + config_hash(b.config) +
                          ",2,,failed,killed after step 0 of 40,bf16_sr,0.0006,0.9,0.999,,,40,0,0,0,,,,,,,,,,0,,,,,,,,,"
                          "\"[0.9,0.999]\"");
}

// Catches: a median of an even number of values that takes one of the two, of unsorted values.
TEST_CASE("the times of a step are medians") {
  const TemporaryFolder place;
  std::string metrics;
  for (const char* seconds : {"4.00", "0.50", "1.00", "0.25"}) {
    std::string event = step_event(1, "2.0");
    metrics += event.replace(event.find("0.25"), 4, seconds);
  }
  make_run(place / "a", config_text("a", 4), metrics);
  REQUIRE(has(runs_csv({read_run(place / "a")}), ",5.75,0.75,512,"));
}

// Catches: bins counted from 0, a last short bin that is lost or stretched, seconds of the bin instead of those so far,
// an evaluation or a measure shown in the wrong bin.
TEST_CASE("curves.csv has bins that end at their step") {
  const TemporaryFolder place;
  // 200 steps make bins of 2; only 5 were done.
  const std::string measures = R"(,"edq":0.5,"edq_full":1.0,"imprecision":25.0)";
  make_run(place / "a", config_text("a", 200),
           step_event(1, "8.0", measures) + step_event(2, "4.0") + step_event(3, "3.0") +
               R"({"event":"evaluation","step":3,"loss":7.0,"bits_per_byte":1.0})"
               "\n" +
               step_event(4, "null") + step_event(5, "1.0", measures));
  const RunRecord a = read_run(place / "a");
  const std::string start = "a," + config_hash(a.config) + ",1337,,";
  REQUIRE(lines_of(curves_csv({a}, 100)) ==
          std::vector<std::string>{
              "run,config_hash,seed,commit,step,tokens,seconds,loss,validation_loss,bits_per_byte,edq,edq_full,"
              "imprecision,update_to_ulp,gradient_norm,learning_rate",
              start + "2,256,0.5,6,,,0.5,1,25,,2,0.5", start + "4,512,1,,7,1,,,,,2,0.5",
              start + "5,640,1.25,1,,,0.5,1,25,,2,0.5"});
  // A skipped step is no part of its bin's means.
  make_run(place / "b", config_text("b", 200), step_event(1, "8.0") + step_event(2, "99.0", R"(,"skipped":true)"));
  REQUIRE(has(lines_of(curves_csv({read_run(place / "b")}, 100))[1], ",2,256,0.5,8,"));
}

// Catches: 101 bins, a bin length of 0, bins of the steps done where those of the config make runs comparable.
TEST_CASE("curves.csv has at most as many rows a run as it was asked for") {
  const TemporaryFolder place;
  struct Length {
    int steps;
    int64_t points;
    size_t rows;
  };
  for (const Length length : {Length{1, 100, 1},
                              {99, 100, 99},
                              {100, 100, 100},
                              {101, 100, 51},
                              {250, 100, 84},
                              {1000, 100, 100},
                              {250, 40, 36}}) {
    std::string metrics;
    for (int step = 1; step <= length.steps; ++step) metrics += step_event(step, "1.0");
    make_run(place / "a", config_text("a", length.steps), metrics);
    INFO(length.steps);
    REQUIRE(lines_of(curves_csv({read_run(place / "a")}, length.points)).size() == 1 + length.rows);
  }
}

// Catches: six digits, where losses of 2 nats differ by 1e-5; sixteen, which make a committed file three times as long.
TEST_CASE("curves.csv rounds to seven digits") {
  const TemporaryFolder place;
  make_run(place / "a", config_text("a", 1), step_event(1, "2.12345678912"));
  REQUIRE(has(curves_csv({read_run(place / "a")}, 100), ",2.123457,"));
}

}  // namespace dither::test
