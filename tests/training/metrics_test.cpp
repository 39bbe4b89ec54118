// metrics.jsonl on disks that refuse, behind lines that a kill has cut, and the lines about checkpoints.
#include "src/training/metrics.h"

#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>

#include "base/commit.h"
#include "base/error.h"
#include "tests/catch.h"
#include "tests/training/tiny_run.h"  // TemporaryFolder

namespace dither {

namespace {

/// While it lives no file of this process grows beyond so many bytes: a write across ends short, the next one fails.
class SizeLimit {
 public:
  explicit SizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    REQUIRE(getrlimit(RLIMIT_FSIZE, &before_) == 0);
    const rlimit limit{bytes, before_.rlim_max};
    REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  ~SizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  SizeLimit(const SizeLimit&) = delete;
  SizeLimit& operator=(const SizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int);
};

std::string text_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void say_step(MetricsLog& log, int64_t step) {
  StepRecord record;
  record.step = step;
  record.loss = 4.5;
  log.step(record);
}

std::string error_of_end(MetricsLog& log) {
  try {
    log.end(9, "completed", 1);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

constexpr const char* kRefused =
    " cannot be written: File too large; training goes on, and events wait in memory until the disk takes them";

}  // namespace

// Every byte of the file is tried as the one where the disk is full. Catches: a line cut, doubled or lost where a write
// ended short, an order that changes, a warning at every event or none, a run ended by its log.
TEST_CASE("a disk that is full for a while loses no byte of the metrics, wherever it begins") {
  const TemporaryFolder folder;
  const std::string whole_path = folder.path() + "/whole.jsonl", path = folder.path() + "/metrics.jsonl";
  MetricsLog whole(whole_path);
  say_step(whole, 1);
  const auto first = static_cast<rlim_t>(text_of(whole_path).size());
  for (const int64_t step : {2, 3, 4}) say_step(whole, step);
  const std::string text = text_of(whole_path);
  REQUIRE(text.size() == 4 * first);
  REQUIRE(whole.take_warning().empty());

  for (rlim_t limit = 0; limit <= 3 * first; ++limit) {
    std::ofstream(path, std::ios::trunc).close();
    MetricsLog log(path);
    std::string refused, quiet, during;
    {
      const SizeLimit full(limit);
      for (const int64_t step : {1, 2, 3}) {
        say_step(log, step);
        (refused.empty() ? refused : quiet) += log.take_warning();
      }
      during = text_of(path);
    }
    INFO("limit " << limit << " of " << text.size() << " bytes");
    REQUIRE(during == text.substr(0, limit));
    REQUIRE(quiet.empty());
    say_step(log, 4);
    const std::string caught_up = log.take_warning();
    REQUIRE(text_of(path) == text);
    if (limit == 3 * first) {
      REQUIRE((refused.empty() && caught_up.empty()));
    } else {
      REQUIRE(refused == path + kRefused);
      const std::string waited = std::to_string(3 - limit / first);
      REQUIRE(caught_up == path + " is written again; events that had waited: " + waited);
    }
    log.end(4, "completed", 1);
  }
}

// Catches: a second refusal that is not told because the first one was, the count of the first carried along.
TEST_CASE("each time that the disk refuses is told, and each time that it has caught up") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/metrics.jsonl";
  MetricsLog log(path);
  for (int time = 0; time < 2; ++time) {
    {
      const SizeLimit full(text_of(path).size());
      say_step(log, 1);
    }
    CHECK(log.take_warning() == path + kRefused);
    say_step(log, 2);
    CHECK(log.take_warning() == path + " is written again; events that had waited: 1");
    CHECK(log.take_warning().empty());
  }
  {
    const SizeLimit full(text_of(path).size());
    say_step(log, 1);
  }
  say_step(log, 2);  // nobody has asked in between
  CHECK(log.take_warning() == path + kRefused + "\n" + path + " is written again; events that had waited: 1");
}

// Catches: a run that ends with status 0 while its metrics are not on the disk, an error without its reason.
TEST_CASE("what cannot be written at the end of a run is an error") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/metrics.jsonl";
  MetricsLog log(path);
  std::string error;
  {
    const SizeLimit full(10);
    say_step(log, 1);
    error = error_of_end(log);
  }
  CHECK(error == path +
                     " cannot be written: File too large; events lost: 2\n"
                     "       cures: free some space there");
  CHECK(text_of(path).size() == 10);

  MetricsLog full("/dev/full");  // Linux's disk without space
  say_step(full, 1);
  CHECK_THAT(full.take_warning(),
             Catch::Matchers::StartsWith("/dev/full cannot be written: No space left on device; training goes on"));
  CHECK_THAT(error_of_end(full), Catch::Matchers::StartsWith("/dev/full cannot be written: No space left on device;"));
  CHECK(full.sync() == "/dev/full cannot be synced: Invalid argument");
}

TEST_CASE("metrics that cannot be opened are an error at once") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/gone/metrics.jsonl";
  std::string error;
  try {
    const MetricsLog log(path);
  } catch (const Error& e) {
    error = e.what();
  }
  CHECK(error == path + " cannot be opened for writing: No such file or directory");
}

// Catches: an earlier part of the run emptied, a cut line that swallows the next one, an empty line behind a whole one
// or at the beginning.
TEST_CASE("a run that goes on appends behind whole lines, and ends one that a kill has cut") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/metrics.jsonl";
  {
    MetricsLog log(path);
    say_step(log, 1);
  }
  const std::string line = text_of(path);
  REQUIRE(line.front() == '{');
  for (const std::string& before : {std::string(), line, line + line.substr(0, 20), std::string("{")}) {
    std::ofstream(path, std::ios::trunc) << before;
    {
      MetricsLog log(path);
      say_step(log, 1);
    }
    CHECK(text_of(path) == before + (before.empty() || before.back() == '\n' ? "" : "\n") + line);
  }
  // On a full disk the end of the cut line waits too.
  std::ofstream(path, std::ios::trunc) << "{";
  MetricsLog log(path);
  {
    const SizeLimit full(1);
    say_step(log, 1);
  }
  say_step(log, 1);
  CHECK(text_of(path) == "{\n" + line + line);
}

// Catches: a field under another's name, a path given for a checkpoint that there is none of, numbers in seconds under
// a name of milliseconds.
TEST_CASE("checkpoints and resumes are events with what became of them") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/metrics.jsonl";
  MetricsLog log(path);
  CheckpointEvent event{.step = 40,
                        .path = "runs/a/checkpoints/step-00000040",
                        .error = "",
                        .bytes = 5'000'000'000,
                        .seconds = 4,
                        .stall_seconds = 0.25,
                        .copy_seconds = 0.125,
                        .write_seconds = 3.5};
  const std::string whole = R"({"event":"checkpoint","step":40,"path":"runs/a/checkpoints/step-00000040",)"
                            R"("bytes":5000000000,"seconds":4.0,"stall_seconds":0.25,"copy_seconds":0.125,)"
                            R"("write_seconds":3.5)";
  log.checkpoint(event);
  event.error = "old ones stay";
  log.checkpoint(event);
  log.checkpoint({.step = 50, .path = "", .error = "the disk is \"full\""});
  log.resume(40, "runs/a/checkpoints/step-00000040", 4, 2);
  log.resume(0, "", 1, 0);
  const std::string program = R"("commit":")" + std::string(commit()) + "\"}\n";
  CHECK(text_of(path) ==
        whole + "}\n" + whole + R"(,"error":"old ones stay"})" + "\n" +
            R"({"event":"checkpoint","step":50,"error":"the disk is \"full\""})" + "\n" +
            R"({"event":"resume","step":40,"from":"runs/a/checkpoints/step-00000040","ranks":4,"zero_stage":2,)" +
            program + R"({"event":"resume","step":0,"from":"","ranks":1,"zero_stage":0,)" + program);
}

// Catches (under the sanitizers): a descriptor or a text that the syncing thread shares with the appending one.
TEST_CASE("metrics are synced by another thread while events are appended") {
  const TemporaryFolder folder;
  MetricsLog log(folder.path() + "/metrics.jsonl");
  std::string failure;
  std::thread other([&] {
    for (int time = 0; time < 5; ++time) failure += log.sync();
  });
  for (int64_t step = 1; step <= 100; ++step) say_step(log, step);
  other.join();
  CHECK(failure.empty());
  CHECK(log.take_warning().empty());
}

}  // namespace dither
