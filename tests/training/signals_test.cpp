// Signals as requests, raised in this process, or in a child where they may kill.
#include "src/training/signals.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <functional>
#include <string>
#include <thread>

#include "tests/catch.h"

namespace dither {

namespace {

/// How a child ends that does this: its exit status, or 128 + the signal that killed it.
pid_t started(const std::function<int()>& act) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) _exit(act());
  return child;
}

int ending(pid_t child) {
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int ending_of(const std::function<int()>& act) { return ending(started(act)); }

}  // namespace

// Catches: SIGUSR1 that ends a run which shall go on, or kills it the second time; a request reported twice, or lost
// because an earlier one was taken; SIGTERM taken for a request to save.
TEST_CASE("under continue SIGUSR1 asks to save as often as it comes, and never to stop") {
  const StopSignals signals(OnSignal::go_on);
  CHECK_FALSE(StopSignals::take_save_request());
  for (int time = 0; time < 3; ++time) {
    raise(SIGUSR1);
    CHECK(StopSignals::take_save_request());
    CHECK_FALSE(StopSignals::take_save_request());
  }
  CHECK(StopSignals::received() == 0);
  CHECK(StopSignals::name() == nullptr);
  raise(SIGTERM);
  CHECK(StopSignals::received() == SIGTERM);
  CHECK_FALSE(StopSignals::take_save_request());
  raise(SIGUSR1);  // still heard, by whoever has yet to end
  CHECK(StopSignals::take_save_request());
  CHECK(StopSignals::name() == std::string("SIGTERM"));
}

// Catches: SIGUSR1 that only saves where it shall end the run, one signal under another's name, a request left over
// from an earlier owner of the signals.
TEST_CASE("under exit each of the four asks to stop, under its name, and none to save") {
  struct Named {
    int signal;
    const char* name;
  };
  {
    const StopSignals earlier(OnSignal::go_on);
    raise(SIGUSR1);
  }
  for (const Named& one :
       {Named{SIGINT, "SIGINT"}, Named{SIGTERM, "SIGTERM"}, Named{SIGHUP, "SIGHUP"}, Named{SIGUSR1, "SIGUSR1"}}) {
    const StopSignals signals(OnSignal::exit);
    CHECK(StopSignals::received() == 0);
    raise(one.signal);
    CHECK(StopSignals::received() == one.signal);
    REQUIRE(StopSignals::name() != nullptr);
    CHECK(StopSignals::name() == std::string(one.name));
    CHECK_FALSE(StopSignals::take_save_request());
  }
}

// Catches: a save that a launcher's second signal kills, sent to the process and to its group; one that kills in the
// moment after the owner of the signals has ended; handlers that outlive an owner who was asked for nothing.
TEST_CASE("a burst of signals is one request, also to a program that is about to end") {
  for (const OnSignal mode : {OnSignal::exit, OnSignal::go_on}) {
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
      CHECK(ending_of([=] {
              {
                const StopSignals signals(mode);
                for (int time = 0; time < 3; ++time) raise(signal);
                if (StopSignals::received() != signal || StopSignals::repeated()) return 1;
              }
              raise(signal);
              return 7;
            }) == 7);
    }
    CHECK(ending_of([=] {
            { const StopSignals signals(mode); }
            raise(SIGUSR1);
            return 1;
          }) == 128 + SIGUSR1);
  }
}

// Catches: a run that no second Ctrl-C can end; a save that a launcher's later SIGTERM kills.
TEST_CASE("more than a second later another Ctrl-C kills, and another SIGTERM is told") {
  const auto twice = [](int signal) {
    return started([=] {
      const StopSignals signals;
      raise(signal);
      usleep(1'050'000);
      raise(signal);
      return StopSignals::received() == signal && StopSignals::repeated() ? 7 : 1;
    });
  };
  const pid_t interrupted = twice(SIGINT), terminated = twice(SIGTERM);  // at the same time
  CHECK(ending(interrupted) == 128 + SIGINT);
  CHECK(ending(terminated) == 7);
}

// Catches: nohup undone, by the handler or by its end.
TEST_CASE("a SIGHUP that was ignored stays ignored") {
  CHECK(ending_of([] {
          std::signal(SIGHUP, SIG_IGN);
          {
            const StopSignals signals;
            raise(SIGHUP);
            if (StopSignals::received() != 0) return 1;
          }
          raise(SIGHUP);
          return 7;
        }) == 7);
}

// Catches: a request that comes between reading the flag and clearing it, and is cleared unread: the last one of a
// thousand would then be missing now and then.
TEST_CASE("no request to save is lost while another one is taken") {
  const StopSignals signals(OnSignal::go_on);
  for (int round = 0; round < 1000; ++round) {
    std::atomic<bool> raised{false};
    std::thread other([&raised] {
      raise(SIGUSR1);  // handled by this thread
      raised = true;
    });
    bool taken = false;
    while (!raised) taken |= StopSignals::take_save_request();
    taken |= StopSignals::take_save_request();
    other.join();
    REQUIRE(taken);
    REQUIRE_FALSE(StopSignals::take_save_request());
  }
}

}  // namespace dither
