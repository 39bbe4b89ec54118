// dither compare and dither report on tiny models: what runs, what is left alone, what is said, and what is left
// behind.
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "tests/catch.h"
#include "tests/commands/program.h"

namespace dither::test {

namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

/// A place with a corpus, and a shell script in place of Python: what these tests ask is what the runs do.
class Laboratory : public Workplace {
 public:
  Laboratory() {
    prepare_corpus();
    write_file(*this / "python", "#!/bin/sh\necho \"| the arms |\" > \"$2/summary.md\"\n");
    chmod((*this / "python").c_str(), 0755);
    setenv("DITHER_PYTHON", (*this / "python").c_str(), 1);
  }
  ~Laboratory() { unsetenv("DITHER_PYTHON"); }

  /// The study "s": what `vary` says over the tiny config, with a merge patch.
  void write_study(const std::string& vary, const std::string& patch = "{}") const {
    Json whole = Json::parse(patch);
    whole["vary"] = Json::parse(vary);
    write_config("s.json", whole.dump());
  }

  /// The study's runs' folders, by name.
  std::vector<std::string> runs() const {
    std::vector<std::string> names;
    if (!fs::exists(*this / "runs/s")) return names;
    for (const auto& entry : fs::directory_iterator(*this / "runs/s")) {
      if (fs::exists(entry.path() / "config.json")) names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  /// When a run's weights were written, in nanoseconds; 0: there are none. (A file in another's place may get its
  /// inode.)
  int64_t written(const std::string& run) const {
    struct stat found {};
    if (stat((*this / ("runs/s/" + run + "/weights.safetensors")).c_str(), &found) != 0) return 0;
    return int64_t{found.st_mtim.tv_sec} * 1'000'000'000 + found.st_mtim.tv_nsec;
  }
  std::string metrics(const std::string& run) const { return read_whole(*this / ("runs/s/" + run + "/metrics.jsonl")); }

  /// A run's weights without the header, which holds its name.
  std::string tensors(const std::string& run) const {
    const std::string bytes = weights(run);
    uint64_t header = 0;
    std::memcpy(&header, bytes.data(), sizeof header);
    return bytes.substr(sizeof header + header);
  }

  /// Processes that work in this place: all, or the one whose config is that run's.
  int processes() const {
    int count = 0;
    for (const auto& process : fs::directory_iterator("/proc")) count += is_here(process) ? 1 : 0;
    return count;
  }
  pid_t process_of(const std::string& run) const {
    for (const auto& process : fs::directory_iterator("/proc")) {
      if (is_here(process) && has(read_whole(process.path() / "cmdline"), "configs/" + run)) {
        return static_cast<pid_t>(std::stol(process.path().filename().string()));
      }
    }
    return 0;  // it has ended
  }

 private:
  bool is_here(const fs::directory_entry& process) const {
    std::error_code gone;
    return fs::read_symlink(process.path() / "cwd", gone) == fs::path(path());
  }
};

/// Waits until `what` holds: a moment, or a minute on a machine that checks every access to memory.
template <class Condition>
bool comes_true(const Condition& what) {
  for (int look = 0; look < 6000; ++look) {
    if (what()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

}  // namespace

// Catches: a run trained twice, a broken one taken for finished, a run outside the study's folder, threads that are not
// those asked for, output of runs mixed into that of compare.
TEST_CASE("compare trains what is not finished and nothing else") {
  const Laboratory place;
  place.write_study(R"({"precision.strategy": ["bf16", "bf16_sr"]})", R"({"checkpoint": {"every_steps": 0}})");
  const std::string first = place.output_of({"compare", "s.json", "--threads", "1"});
  const std::vector<std::string> runs = place.runs();
  REQUIRE(runs == std::vector<std::string>{"bf16", "bf16_sr"});
  REQUIRE(has(first, "[1/2] bf16: completed, 2 steps"));
  REQUIRE(has(first, "| the arms |"));
  REQUIRE(has(first, "runs/s/report/report.html"));
  REQUIRE(!has(first, "tok/s"));
  REQUIRE(has(read_whole(place / "runs/s/logs/bf16.txt"), "tok/s"));
  REQUIRE(Json::parse(read_whole(place / "runs/s/bf16/config.json")).at("parallel").at("threads") == 1);
  const std::string csv = read_whole(place / "runs/s/report/runs.csv");
  REQUIRE(has(csv, "\nbf16,runs/s/bf16,"));
  REQUIRE(std::count(csv.begin(), csv.end(), '\n') == 3);

  // Cut where a kill would cut it: behind a step.
  const std::string whole = place.metrics("bf16");
  write_file(place / "runs/s/bf16/metrics.jsonl", whole.substr(0, whole.find("\"step\":2,")));
  const int64_t kept = place.written("bf16_sr"), broken = place.written("bf16");
  const std::string second = place.output_of({"compare", "s.json"});
  REQUIRE(has(second, "[2/2] bf16_sr: completed earlier"));
  REQUIRE(has(second, "[1/2] bf16: started"));
  REQUIRE(place.written("bf16_sr") == kept);
  REQUIRE(place.written("bf16") != broken);
  REQUIRE(has(place.metrics("bf16"), "completed"));
  REQUIRE(read_whole(place / "runs/s/report/runs.csv").find("failed") == std::string::npos);
}

// Catches: figures of an old config under a new one's name, a refusal that comes after hours of other runs, an
// --overwrite that leaves a finished run as it is.
TEST_CASE("a finished run of another config is refused before anything starts") {
  const Laboratory place;
  place.write_study(R"({"seed": [1, 2]})");
  place.output_of({"compare", "s.json", "--no-report"});
  REQUIRE(!fs::exists(place / "runs/s/report"));
  fs::remove_all(place / "runs/s/seed=1");
  const int64_t kept = place.written("seed=2");
  REQUIRE(kept != 0);

  const Outcome refused = place.run({"compare", "s.json", "--set", "optimizer.learning_rate=1e-3"});
  INFO(refused.out << refused.err);
  REQUIRE(refused.status == 2);
  REQUIRE(has(refused.err, "runs/s/seed=2 holds a finished run of another config: optimizer.learning_rate 0.001 here"));
  REQUIRE(has(refused.err, "--set name="));
  REQUIRE(has(refused.err, "--overwrite"));
  REQUIRE(place.runs() == std::vector<std::string>{"seed=2"});
  REQUIRE(has(place.output_of({"compare", "s.json", "--list", "--set", "steps=3"}), "other config"));
  place.write_config("first.json", R"({"vary": {"seed": [1]}})");
  REQUIRE(place.run({"compare", "first.json", "s.json", "--set", "steps=3"}).status == 2);
  REQUIRE(!fs::exists(place / "runs/first"));

  place.output_of({"compare", "s.json", "--set", "optimizer.learning_rate=1e-3", "--overwrite"});
  REQUIRE(place.runs() == std::vector<std::string>{"seed=1", "seed=2"});
  REQUIRE(place.written("seed=2") != kept);
}

// Catches: --list that makes folders, memory of one run shown for all.
TEST_CASE("a listing of a study shows every run with its state and does nothing") {
  const Laboratory place;
  place.write_study(R"({"batch.micro_batch_size": [1, 4]})");
  const std::string list = place.output_of({"compare", "s.json", "--list"});
  REQUIRE(has(list, "s: 2 runs in runs/s\n"));
  REQUIRE(has(list, "not begun"));
  REQUIRE(!fs::exists(place / "runs"));
}

// Catches: one bad run that ends the study, a divergence shown as a failure or as success, a status that scripts cannot
// rely on, a diverged run that is run again and again.
TEST_CASE("a run that diverges or fails is shown as such and the others complete") {
  const Laboratory place;
  place.write_study(R"([{"optimizer.learning_rate": [1e-3, 1000]}, {"data.train": ["gone.bin"]}])",
                    R"({"steps": 20, "optimizer": {"weight_decay": 1}, "guards": {"stop_after_skips": 2}})");
  const Outcome outcome = place.run({"compare", "s.json"});
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 2);
  REQUIRE(has(outcome.err, "error: runs/s: 2 of 3 runs did not complete"));
  REQUIRE(has(outcome.err, ": diverged: "));
  REQUIRE(has(outcome.err, ": failed: error: gone.bin"));
  REQUIRE(has(outcome.out, "| the arms |"));
  const std::string csv = read_whole(place / "runs/s/report/runs.csv");
  for (const std::string state : {",completed,", ",diverged,", ",failed,"}) REQUIRE(has(csv, state));
  REQUIRE(has(csv, "error: gone.bin"));
  REQUIRE(has(csv, "2 steps in a row skipped: "));

  const std::string again = place.run({"compare", "s.json", "--no-report"}).out;
  REQUIRE(has(again, "completed earlier"));
  REQUIRE(has(again, "diverged earlier"));
  REQUIRE(has(again, "started, 20 steps"));  // the failed one
}

// Catches: children that outlive a killed compare, finished runs repeated after it, a folder that stays locked.
TEST_CASE("a compare killed half way goes on when it is started again") {
  const Laboratory place;
  // The first is over at once, the others would take hours.
  place.write_study(R"([{"steps": [2]}, {"steps": [4000000000], "seed": [1, 2]}])");
  Program program(place.path(), {"compare", "s.json", "--jobs", "2"});
  const auto finished = [&place] {
    const std::vector<std::string> runs = place.runs();
    return std::count_if(runs.begin(), runs.end(), [&](const auto& run) { return has(place.metrics(run), "\"end\""); });
  };
  const auto at_work = [&place] {
    const std::vector<std::string> runs = place.runs();
    return runs.size() == 3 && std::all_of(runs.begin(), runs.end(), [&](const std::string& run) {
             return has(place.metrics(run), "\"step\":2,");
           });
  };
  REQUIRE(comes_true(at_work));
  REQUIRE(finished() == 1);
  REQUIRE(place.processes() == 3);  // compare and two runs
  program.send(SIGKILL);
  program.wait();
  REQUIRE(comes_true([&place] { return place.processes() == 0; }));

  std::string done;
  for (const std::string& run : place.runs()) {
    if (has(place.metrics(run), "completed")) done = run;
  }
  const int64_t kept = place.written(done);
  REQUIRE(kept != 0);
  Program again(place.path(), {"compare", "s.json", "--jobs", "2"});
  REQUIRE(comes_true([&place] { return place.processes() == 3; }));
  REQUIRE(comes_true(at_work));
  again.send(SIGTERM);
  const Outcome outcome = again.wait();
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 2);
  REQUIRE(has(outcome.out, done + ": completed earlier"));
  REQUIRE(has(outcome.err, "stopped by SIGTERM with 1 of 3 runs finished"));
  REQUIRE(place.written(done) == kept);
  REQUIRE(place.processes() == 0);
  REQUIRE(!fs::exists(place / "runs/s/report"));
  for (const std::string& run : place.runs()) {
    if (run != done) REQUIRE(has(place.metrics(run), "\"reason\":\"signal\""));
  }
}

// Catches: checkpoints deleted by a start without --overwrite, a run that begins again or goes on to other bits,
// metrics of which the first part is missing; an interrupted run of another config that is overwritten unasked.
TEST_CASE("interrupted runs of a study are resumed, to the bits of a study that was never disturbed") {
  const Laboratory place;
  place.write_study(R"({"seed": [1, 2]})", R"({"steps": 200, "checkpoint": {"every_steps": 10}, "logging":
                    {"measure_every_steps": 0}})");
  const auto saved = [&place](const std::string& run) { return has(place.metrics(run), "\"checkpoint\""); };
  const std::vector<std::string> runs = {"seed=1", "seed=2"};
  const auto interrupted = [&] {
    Program program(place.path(), {"compare", "s.json", "--jobs", "2", "--threads", "1", "--no-report"});
    REQUIRE(comes_true([&] { return saved(runs[0]) && saved(runs[1]); }));
    if (const pid_t child = place.process_of("seed=1"); child > 0) kill(child, SIGKILL);
    program.send(SIGKILL);
    program.wait();
    REQUIRE(comes_true([&place] { return place.processes() == 0; }));
    return !has(place.metrics(runs[0]), "completed") && !has(place.metrics(runs[1]), "completed");
  };
  bool in_time = interrupted();
  for (int attempt = 0; !in_time && attempt < 9; ++attempt) {  // a busy machine may look too late
    fs::remove_all(place / "runs/s");
    in_time = interrupted();
  }
  REQUIRE(in_time);

  const Outcome other = place.run({"compare", "s.json", "--set", "optimizer.learning_rate=1e-3"});
  INFO(other.err);
  REQUIRE(other.status == 2);
  REQUIRE(
      has(other.err, "runs/s/seed=1 holds an interrupted run of another config: optimizer.learning_rate 0.001 here"));

  const std::string out = place.output_of({"compare", "s.json", "--jobs", "2", "--threads", "1", "--no-report"});
  place.output_of({"compare", "s.json", "--set", "name=u", "--jobs", "2", "--threads", "1", "--no-report"});
  for (const std::string& run : runs) {
    INFO(run << "\n" << out);
    REQUIRE(has(out, run + ": resumed after step "));
    REQUIRE(has(place.metrics(run), "\"event\":\"resume\""));
    REQUIRE(place.metrics(run).find("\"step\":1,") != std::string::npos);
    REQUIRE(place.tensors("s/" + run) == place.tensors("u/" + run));
  }
}

// Catches: --overwrite of a study that deletes what no run made.
TEST_CASE("compare --overwrite refuses a run's folder that holds something else, before it touches any") {
  const Laboratory place;
  place.write_study(R"({"seed": [1, 2]})");
  place.output_of({"compare", "s.json", "--no-report"});
  const int64_t kept = place.written("seed=1");
  write_file(place / "runs/s/seed=2/notes.txt", "mine");
  const Outcome refused = place.run({"compare", "s.json", "--no-report", "--overwrite"});
  REQUIRE(refused.status == 2);
  REQUIRE(has(refused.err, "runs/s/seed=2/notes.txt"));
  REQUIRE(read_whole(place / "runs/s/seed=2/notes.txt") == "mine");
  REQUIRE(place.written("seed=1") == kept);
}

// Catches: two compares that write into one folder.
TEST_CASE("a study's folder has one compare at a time") {
  const Laboratory place;
  place.write_study(R"({"seed": [1, 2]})", R"({"steps": 4000000000})");
  Program program(place.path(), {"compare", "s.json", "--jobs", "1"});
  REQUIRE(comes_true([&place] { return place.runs().size() == 1; }));
  Program second(place.path(), {"compare", "s.json", "--jobs", "1"});
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  second.send(SIGINT);  // it would wait some seconds more, for runs of a killed compare
  const Outcome outcome = second.wait();
  REQUIRE(outcome.status == 2);
  REQUIRE(has(outcome.err, "runs/s is in use"));
  program.send(SIGINT);
  REQUIRE(has(program.wait().err, "stopped by SIGINT"));
}

// Catches: a run that waits forever for memory it cannot have, a budget in other units, a need that is not the plan's.
TEST_CASE("a run larger than the memory budget fails and the others go on") {
  const Laboratory place;
  place.write_study(R"({"model.ffn": [96, 8192]})");  // about 1 and 30 MiB
  const Outcome outcome = place.run({"compare", "s.json", "--memory", "0.01"});
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 2);
  REQUIRE(has(outcome.err, "1 of 2 runs did not complete"));
  REQUIRE(has(outcome.err, "failed: error: the run needs 0.0"));
  REQUIRE(has(outcome.err, "all runs together may take 0.01 (--memory)"));
  REQUIRE(has(read_whole(place / "runs/s/report/runs.csv"), "all runs together may take 0.01"));
  REQUIRE(place.runs().size() == 1);
  // The report of another day knows the reason too.
  REQUIRE(place.run({"compare", "s.json", "--memory", "1"}).status == 0);
}

// Catches: results that need a report to be kept, a status of 0 without a report.
TEST_CASE("without Python compare leaves the tables and says what to install") {
  const Laboratory place;
  setenv("DITHER_PYTHON", "/nonexistent", 1);
  place.write_study(R"({"seed": [1]})");
  const Outcome outcome = place.run({"compare", "s.json"});
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 2);
  REQUIRE(has(outcome.err, "error: no report: /nonexistent cannot be run"));
  REQUIRE(has(outcome.err, "apt-get install python3-matplotlib python3-scipy"));
  REQUIRE(has(outcome.err, "runs/s/report/runs.csv"));
  REQUIRE(has(read_whole(place / "runs/s/report/runs.csv"), ",completed,"));
}

// Catches: a report that only compare can make, a default place inside a run's folder.
TEST_CASE("report compares runs that train has made") {
  const Laboratory place;
  place.train("a");
  place.train("b", R"({"seed": 7})");
  REQUIRE(has(place.output_of({"report", "runs/a", "runs/b"}), "| the arms |\n\nruns/report/report.html\n"));
  const std::string csv = read_whole(place / "runs/report/runs.csv");
  REQUIRE(std::count(csv.begin(), csv.end(), '\n') == 3);
  place.output_of({"report", "runs", "--output", "elsewhere"});
  REQUIRE(read_whole(place / "elsewhere/runs.csv") == csv);
  const Outcome refused = place.run({"report", "data"});
  REQUIRE(refused.status == 2);
  REQUIRE(has(refused.err, "data has no runs"));
}

// Catches: a compare file trained as a plain config, a plain config compared, options that are not checked.
TEST_CASE("mistakes on the command line of compare are refused") {
  struct Mistake {
    std::vector<std::string> arguments;
    std::string says;
  };
  const Laboratory place;
  place.write_study(R"({"seed": [1]})");
  place.write_config("plain.json");
  for (const Mistake& mistake : std::vector<Mistake>{{{"compare"}, "FILE"},
                                                     {{"compare", "s.json", "--jobs", "0"}, "--jobs"},
                                                     {{"compare", "s.json", "--threads", "0"}, "--threads"},
                                                     {{"compare", "s.json", "--memory", "0"}, "--memory"},
                                                     {{"compare", "plain.json"}, "vary"},
                                                     {{"train", "s.json"}, "dither compare"},
                                                     {{"report"}, "RUN"},
                                                     {{"compare", "gone.json"}, "gone.json"}}) {
    const Outcome outcome = place.run(mistake.arguments);
    INFO(outcome.err);
    REQUIRE(outcome.status == 2);
    REQUIRE(outcome.err.rfind("error: ", 0) == 0);
    REQUIRE(has(outcome.err, mistake.says));
    REQUIRE(!fs::exists(place / "runs"));
  }
}

}  // namespace dither::test
