// scripts/run_ranks.sh by itself: what it gives to the ranks, what it says of them, and its status.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>

#include "tests/catch.h"
#include "tests/ranks_jobs/job.h"

namespace dither::test {

namespace {

Outcome run_ranks(const JobPlace& place, const std::string& ranks, const std::string& commands) {
  Job job(place, {DITHER_SOURCE_DIR "/scripts/run_ranks.sh", ranks, "bash", "-c", commands});
  return job.wait(60);
}

}  // namespace

// Catches: a variable that misses or is that of another rank, a file to meet at that differs between ranks.
TEST_CASE("run_ranks.sh gives each rank its number and all the same file to meet at") {
  const JobPlace place;
  const Outcome outcome =
      run_ranks(place, "3",
                R"sh(echo "$DITHER_RANK $DITHER_RANKS $DITHER_LOCAL_RANK $DITHER_LOCAL_RANKS" >"is.$DITHER_RANK"
         echo "$DITHER_RENDEZVOUS" >"meet.$DITHER_RANK"; [ -d "$(dirname "$DITHER_RENDEZVOUS")" ])sh");
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  REQUIRE(outcome.err.empty());
  for (const std::string rank : {"0", "1", "2"}) {
    REQUIRE(read_whole(place / ("is." + rank)) == rank + " 3 " + rank + " 3\n");
    REQUIRE(read_whole(place / ("meet." + rank)) == read_whole(place / "meet.0"));
  }
  const std::string meet = read_whole(place / "meet.0");
  REQUIRE(!std::filesystem::exists(std::filesystem::path(meet).parent_path()));
}

// Catches: a status of the last rank or of the shell, a failure that nobody is told of, a signal told as a number, a
// rank whose end is missed because others end at the same time.
TEST_CASE("run_ranks.sh ends with the highest status of a rank and names each failure") {
  const bool aborts = GENERATE(true, false);
  const JobPlace place;
  const Outcome outcome = run_ranks(place, "6",
                                    std::string("case $DITHER_RANK in 1) exit 3;; 4) ") +
                                        (aborts ? "kill -ABRT $$" : "exit 9") + ";; 5) exit 0;; *) exit 2;; esac");
  INFO(outcome.err);
  REQUIRE(outcome.status == (aborts ? 128 + SIGABRT : 9));
  REQUIRE(has(outcome.err, "run_ranks.sh: rank 0 (pid "));
  REQUIRE(has(outcome.err, ") ended with status 3\n"));
  REQUIRE(has(outcome.err, aborts ? ") was ended by SIGABRT\n" : ") ended with status 9\n"));
  REQUIRE(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 5);
}

// Catches: a launcher that waits for a rank which does not notice, or that kills the others at once.
TEST_CASE("run_ranks.sh gives the others seven seconds after a failure, then kills them") {
  const JobPlace place;
  const auto begin = std::chrono::steady_clock::now();
  const Outcome outcome =
      run_ranks(place, "3", "trap '' TERM; case $DITHER_RANK in 0) exit 5;; 1) sleep 4;; 2) exec sleep 600;; esac");
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  INFO(outcome.err);
  REQUIRE(outcome.status == 5);
  REQUIRE(seconds > 6);       // the shell counts whole seconds
  REQUIRE(seconds < 7 + 20);  // far less than its sleep, on a busy machine too
  REQUIRE(has(outcome.err, "run_ranks.sh: rank 2 (pid "));
  REQUIRE(has(outcome.err, ") was ended by SIGKILL\n"));
  REQUIRE(!has(outcome.err, "run_ranks.sh: rank 1 "));
}

TEST_CASE("run_ranks.sh refuses what is no number of ranks") {
  const std::string ranks = GENERATE("0", "-1", "two", "1.5", "");
  const JobPlace place;
  const Outcome outcome = run_ranks(place, ranks, "true");
  REQUIRE(outcome.status == 2);
  REQUIRE(outcome.err == "usage: scripts/run_ranks.sh RANKS COMMAND..., RANKS from 1 to 99999\n");
}

}  // namespace dither::test
