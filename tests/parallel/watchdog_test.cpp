// The watchdog with real processes that die, stop, hang and fail, and its rules of blame by themselves.
#include <algorithm>
#include <csignal>

#include "base/error.h"
#include "src/parallel/blame.h"
#include "src/parallel/control.h"
#include "src/parallel/meeting.h"
#include "src/parallel/watchdog.h"
#include "tests/catch.h"
#include "tests/parallel/star_processes.h"

namespace dither::test {
namespace {

using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::EndsWith;
using Catch::Matchers::StartsWith;

constexpr double kConnectSeconds = 8;
constexpr double kForEver = 60;

/// All ranks train: rank `odd` is in a phase of its own when all are ready, the others wait for it in a barrier.
StarProcesses::Body waiting_for(int odd, double timeout) {
  return [odd, timeout](const RankEnvironment& environment, Shared& shared) {
    Control control(environment, kConnectSeconds);
    control.watch(timeout);
    control.phase("step 3: backward");
    if (environment.rank != odd) control.phase("step 3: reduce");
    sleep_seconds(timeout * 0.3);  // a heartbeat, which tells the phase, comes in every quarter of the timeout
    shared.ready++;
    if (environment.rank == odd) sleep_seconds(kForEver);
    control.barrier();
  };
}

/// The lines in which all but rank `odd` end, by status 2, within `seconds`.
void require_ended(StarProcesses& processes, int ranks, int odd, double seconds, const std::string& reason) {
  for (int rank = 0; rank < ranks; ++rank) {
    if (rank == odd) continue;
    const Ended ended = processes.wait(rank);
    INFO("rank " << rank << " after " << ended.seconds << " s: " << ended.error);
    CHECK(ended.status == 2);
    CHECK(ended.seconds < seconds + kExitSeconds);
    const std::string line =
        "rank " + std::to_string(rank) + ": error: " + (rank == 0 ? "" : "ending because ") + reason;
    CHECK_THAT(ended.error, StartsWith(line) && EndsWith("\n"));
    CHECK(std::count(ended.error.begin(), ended.error.end(), '\n') == 1);
  }
}

}  // namespace

// Catches: rank 0 blamed by those who see its connection close because it ends, a main thread that throws before the
// watchdog has told the others, a name without its phase, a death that waits for the timeout.
TEST_CASE("a killed rank ends the others within five seconds, by name") {
  const int dead = GENERATE(0, 2);
  const Folder folder;
  StarProcesses processes;
  processes.start_all(3, folder, waiting_for(dead, 1.6));
  processes.await_ready(3);
  const std::string name = processes.name(dead);
  processes.send(dead, SIGKILL);
  require_ended(processes, 3, dead, 1, name + " is gone while in step 3: backward");
}

// Catches: a stopped process that counts as alive because its connection is open; a waiting rank blamed for it; a
// stopped rank 0, whom nobody judges.
TEST_CASE("a stopped rank ends the others after the timeout, by name") {
  const int stopped = GENERATE(0, 1);
  const Folder folder;
  StarProcesses processes;
  processes.start_all(3, folder, waiting_for(stopped, 1));
  processes.await_ready(3);
  const std::string name = processes.name(stopped);
  processes.send(stopped, SIGSTOP);
  require_ended(processes, 3, stopped, 4,
                name + " has made no progress for 1 s; its last phase: step 3: backward; it gives no sign");
  processes.send(stopped, SIGCONT);
  const Ended ended = processes.wait(stopped);  // awake again, it learns what happened
  CHECK(ended.status == 2);
}

TEST_CASE("a rank whose main thread hangs ends all, itself too, by name") {
  const int hanging = GENERATE(0, 1);
  const Folder folder;
  StarProcesses processes;
  processes.start_all(3, folder, waiting_for(hanging, 0.6));
  processes.await_ready(3);
  const std::string reason =
      processes.name(hanging) + " has made no progress for 0.6 s; its last phase: step 3: backward\n";
  require_ended(processes, 3, -1, 4, reason);
}

TEST_CASE("ranks that hang alike are all named with their phases") {
  const Folder folder;
  StarProcesses processes;
  processes.start_all(2, folder, [](const RankEnvironment& environment, Shared&) {
    Control control(environment, kConnectSeconds);
    control.watch(0.3);
    control.phase("all_reduce");
    sleep_seconds(kForEver);
  });
  require_ended(processes, 2, -1, 4, "no rank has made progress for 0.3 s; last phases by rank: [0, 1] all_reduce\n");
}

// Catches: a timeout over a whole step instead of a phase; those who wait for a slow rank killed for it.
TEST_CASE("a slow rank that makes progress is let work, and so are those who wait for it") {
  const int slow = GENERATE(0, 1);
  const Folder folder;
  StarProcesses processes;
  processes.start_all(3, folder, [slow](const RankEnvironment& environment, Shared&) {
    Control control(environment, kConnectSeconds);
    control.watch(0.5);
    for (int i = 0; i < 6 && environment.rank == slow; ++i) {
      control.phase("part " + std::to_string(i));
      sleep_seconds(0.12);
    }
    control.phase("reduce");
    control.barrier();
  });
  for (int rank = 0; rank < 3; ++rank) {
    const Ended ended = processes.wait(rank);
    INFO(ended.error);
    REQUIRE(ended.status == 0);
    REQUIRE(ended.error.empty());
  }
}

// Catches: the time in which all slept, as a scheduler that suspends a job makes them, counted as one rank's silence.
TEST_CASE("a job that is suspended as a whole and continued goes on") {
  const Folder folder;
  StarProcesses processes;
  processes.start_all(3, folder, [](const RankEnvironment& environment, Shared& shared) {
    Control control(environment, kConnectSeconds);
    control.watch(0.6);
    shared.ready++;
    for (int i = 0; shared.signal == 0; ++i) {
      control.phase("step " + std::to_string(i));
      sleep_seconds(0.05);
    }
  });
  processes.await_ready(3);
  sleep_seconds(0.2);
  for (const int rank : {0, 1, 2}) processes.send(rank, SIGSTOP);
  sleep_seconds(0.8);
  for (const int rank : {0, 1, 2}) processes.send(rank, SIGCONT);
  sleep_seconds(0.3);
  processes.shared().signal = 1;
  for (int rank = 0; rank < 3; ++rank) {
    const Ended ended = processes.wait(rank);
    INFO(ended.error);
    REQUIRE(ended.status == 0);
  }
}

// Catches: a failure that reaches the others only when they next send a message, or is lost because the process that
// tells it ends at once; a failing rank that its own watchdog ends before it can say more.
TEST_CASE("a rank that fails ends the others within a second with its message") {
  const int failing = GENERATE(0, 1, 2);
  const Folder folder;
  StarProcesses processes;
  processes.start_all(3, folder, [failing](const RankEnvironment& environment, Shared& shared) {
    Control control(environment, kConnectSeconds);
    control.watch(30);
    shared.ready++;
    while (shared.signal == 0) sleep_seconds(0.001);
    if (environment.rank != failing) sleep_seconds(kForEver);
    control.fail("the shard is truncated");
    control.fail("and once more, which changes nothing");
    throw Error("the shard is truncated");
  });
  processes.await_ready(3);
  processes.shared().signal = 1;
  const std::string who = "rank " + std::to_string(failing);
  for (int rank = 0; rank < 3; ++rank) {
    const Ended ended = processes.wait(rank);
    INFO("rank " << rank << ": " << ended.error);
    CHECK(ended.status == 2);
    CHECK(ended.seconds < 1 + kExitSeconds);
    const std::string line = "rank " + std::to_string(rank) + ": ";
    CHECK(ended.error == (rank == failing
                              ? line + "caught: the shard is truncated\n"
                              : line + "error: ending because " + who + " failed: the shard is truncated\n"));
  }
}

// Every rank finds the same mistake, as in a config that all of them read.
TEST_CASE("ranks that all fail at once end quickly, each with its own or another's failure") {
  const bool watched = GENERATE(false, true);
  const Folder folder;
  StarProcesses processes;
  processes.start_all(4, folder, [watched](const RankEnvironment& environment, Shared&) {
    Control control(environment, kConnectSeconds);
    if (watched) control.watch(30);
    control.fail("steps is 0");
    throw Error("steps is 0");
  });
  for (int rank = 0; rank < 4; ++rank) {
    const Ended ended = processes.wait(rank);
    INFO("rank " << rank << ": " << ended.error);
    CHECK(ended.status == 2);
    CHECK(ended.seconds < 2 + kExitSeconds);
    CHECK_THAT(ended.error, EndsWith("steps is 0\n"));
  }
}

TEST_CASE("an exception that passes a watched star ends the others without their waiting for goodbye") {
  const Folder folder;
  StarProcesses processes;
  processes.start_all(2, folder, [](const RankEnvironment& environment, Shared&) {
    Control control(environment, kConnectSeconds);
    control.watch(30);
    if (environment.rank == 1) throw Error("it told nobody");
    control.barrier();
  });
  const std::string name = processes.name(1);
  require_ended(processes, 2, 1, 5, name + " is gone");
  CHECK(processes.wait(1).error == "rank 1: caught: it told nobody\n");
}

// Catches: the closing of those who end first taken for their death.
TEST_CASE("ranks that come to the end at different times end in peace") {
  const int late = GENERATE(0, 2);
  const Folder folder;
  StarProcesses processes;
  processes.start_all(3, folder, [late](const RankEnvironment& environment, Shared&) {
    Control control(environment, kConnectSeconds);
    control.watch(2);
    if (environment.rank == late) sleep_seconds(0.2);
  });
  for (int rank = 0; rank < 3; ++rank) {
    const Ended ended = processes.wait(rank);
    INFO(ended.error);
    REQUIRE(ended.status == 0);
    REQUIRE(ended.error.empty());
    REQUIRE(ended.seconds < 1 + kExitSeconds);  // no deadline of the goodbye was waited for
  }
}

// Catches: a rank 0 that closes without a word. ~Control leaves no time for that to be seen, so here the parts are
// apart.
TEST_CASE("after rank 0's goodbye its closed connection ends nobody") {
  const Folder folder;
  StarProcesses processes;
  processes.start_all(2, folder, [](const RankEnvironment& environment, Shared& shared) {
    star::Meeting meeting = star::meet(environment, kConnectSeconds, {});
    star::Watchdog watchdog(environment.rank, meeting.name, std::move(meeting.signs));
    watchdog.start(2);
    if (environment.rank == 0) {
      watchdog.all_is_done();
      sleep_seconds(0.1);
      raise(SIGKILL);  // its connections close at once; a destructor would wait until rank 1 has gone
    }
    sleep_seconds(0.3);
    watchdog.stop();
    shared.signal = 1;
  });
  REQUIRE(processes.wait(0).status == 128 + SIGKILL);
  const Ended ended = processes.wait(1);
  INFO(ended.error);
  REQUIRE(ended.status == 0);
  REQUIRE(processes.shared().signal == 1);
}

// Catches: a death in the orderly end, after a rank's own work, that nobody notices.
TEST_CASE("a rank that dies while the others wait for it in the end is named") {
  const Folder folder;
  StarProcesses processes;
  processes.start_all(3, folder, [](const RankEnvironment& environment, Shared& shared) {
    Control control(environment, kConnectSeconds);
    control.watch(30);
    shared.ready++;
    if (environment.rank == 2) sleep_seconds(kForEver);
  });
  processes.await_ready(3);
  const std::string name = processes.name(2);
  processes.send(2, SIGKILL);
  require_ended(processes, 3, 2, 5, name + " is gone\n");
}

// Catches: the order of the rules, the largest number of phases instead of the smallest, one rank's stillness that is
// enough, silence measured by the wrong limit.
TEST_CASE("blame: silence first, then who has begun the fewest phases, and nobody while one makes progress") {
  using star::blame;
  using star::Signs;
  const Signs fresh{"rank 0", "reduce", 8, 0.5, 0.1};
  const Signs waiting{"rank 1", "reduce", 8, 6, 0.1};
  const Signs behind{"rank 2", "backward", 7, 6, 0.1};
  const Signs quiet{"rank 3", "forward", 9, 6, 3.5};
  const Signs stopped{"rank 4", "", 0, 0.5, 5};
  const std::string silence = "; it gives no sign of life: its process is stopped, or its node is lost";
  CHECK(blame({fresh, waiting, behind, quiet}, 5, 3).empty());
  CHECK(blame({waiting, behind}, 5, 3) == "rank 2 has made no progress for 5 s; its last phase: backward");
  CHECK(blame({waiting, behind, quiet}, 5, 3) ==
        "rank 3 has made no progress for 5 s; its last phase: forward" + silence);
  CHECK(blame({waiting, behind, quiet}, 5, 4) == "rank 2 has made no progress for 5 s; its last phase: backward");
  CHECK(blame({fresh, waiting, stopped}, 5, 3) == "rank 4 has made no progress for 5 s" + silence);
  CHECK(blame({waiting, quiet, waiting}, 5, 4) ==
        "no rank has made progress for 5 s; last phases by rank: [1] forward; [0, 2] reduce");
  CHECK(blame({waiting}, 6.5, 3).empty());
}

}  // namespace dither::test
