// The two ways to fail.
#include "base/error.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <thread>

#include "tests/catch.h"

namespace dither {

TEST_CASE("an Error carries its text and is a runtime_error") {
  const std::string text = "config.json: batch.micro_batch_size is 0, needs at least 1";
  const auto fail = [&] { throw Error(text); };
  REQUIRE_THROWS_WITH(fail(), text);
  REQUIRE_THROWS_AS(fail(), std::runtime_error);
}

// Catches: a macro that evaluates its condition twice or not at all in release builds, or that is not one expression.
TEST_CASE("an assertion that holds evaluates its condition once") {
  int evaluated = 0;
  evaluated == 0 ? DITHER_ASSERT(++evaluated == 1) : static_cast<void>(evaluated = 100);
  REQUIRE(evaluated == 1);
}

// Catches: an assertion compiled away by NDEBUG, an abort, an exit that cleanup could hide or that waits for the other
// threads, a message without its place.
TEST_CASE("a broken assertion says what and where, and exits with status 3 from any thread") {
  const bool in_thread = GENERATE(false, true);
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::signal(SIGABRT, SIG_DFL);  // not the test framework's handler
    dup2(ends[1], STDERR_FILENO);
    const auto fail = [] { DITHER_ASSERT(1 + 1 == 3); };
    in_thread ? std::thread(fail).join() : fail();
    _exit(0);
  }
  const std::string place = std::string(__FILE__) + ":" + std::to_string(__LINE__ - 4);
  close(ends[1]);
  std::string text;
  char buffer[256];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == 3);
  REQUIRE(text == "internal error: " + place + ": broken assertion: 1 + 1 == 3\n");
}

}  // namespace dither
