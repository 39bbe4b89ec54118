// Memory that ranks of a node share, and what the log says where it cannot be written.
#include "src/training/node_memory.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "src/parallel/sockets.h"
#include "src/training/progress.h"
#include "tests/catch.h"
#include "tests/training/tiny_run.h"

namespace dither {
namespace {

constexpr int64_t kMiB = 1 << 20;

}  // namespace

// Catches: each rank compared with what is free by itself, ranks of other GPUs or groups added up too, what each
// process has for itself shared out, the last rank's free memory in place of the least.
TEST_CASE("what ranks of a node need is added up before it is compared with what is free") {
  Control one(RankEnvironment{}, 1, {});
  REQUIRE(memory_lacks(one, 10 * kMiB, {10 * kMiB, "MemAvailable"}) == std::vector<std::string>{""});
  REQUIRE(memory_lacks(one, 10 * kMiB, {-1, ""}) == std::vector<std::string>{""});
  const std::string lack = memory_lacks(one, 10 * kMiB, {9 * kMiB, "memory.max of /a"})[0];
  REQUIRE(lack == "1 rank of " + star::host_name() + " needs 10 MiB, 9 MiB are free (memory.max of /a)");

  RankEnvironment environment;
  environment.ranks = 2;
  environment.local_ranks = 2;
  environment.address = "127.0.0.1:" + std::to_string(star::port_of(star::listen_at({"127.0.0.1", 0})));
  const auto lacks = [&environment](int rank) {
    environment.rank = rank;
    Control control(environment, 20, {});
    std::string all;
    for (const std::string& text : memory_lacks(control, 60 * kMiB, {(rank == 0 ? 110 : 100) * kMiB, "m"})) {
      all += text + "|";
    }
    for (const std::string& text : memory_lacks(control, 50 * kMiB, {100 * kMiB, "m"})) all += text + "|";
    for (const std::string& text : memory_lacks(control, 60 * kMiB, {100 * kMiB, "m"}, std::to_string(rank))) {
      all += text + "|";
    }
    for (const std::string& text : memory_lacks(control, 60 * kMiB, {100 * kMiB, kAddressSpaceLimit}))
      all += text + "|";
    return all;
  };
  const std::string both = "2 ranks of " + star::host_name() + " need 120 MiB, 100 MiB are free (m)|";
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) _exit(lacks(1) == both + both + "||||||" ? 0 : 1);
  CHECK(lacks(0) == both + both + "||||||");
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(status == 0);
}

// Catches: "[*** LOG ERROR #0001 ***]" on the terminal, a warning for every line, an exception that ends the run.
TEST_CASE("a log that cannot be written is one warning in plain words") {
  std::FILE* kept = std::tmpfile();
  REQUIRE(kept != nullptr);
  std::fflush(stdout);
  const int before = dup(STDOUT_FILENO);
  dup2(fileno(kept), STDOUT_FILENO);
  {
    const Config config = tiny_config(Strategy::mixed);
    Progress progress(config, "/dev/full");
    progress.say("one");
    progress.say("two\x1b[31m");
    progress.warn("three");
  }
  std::fflush(stdout);
  dup2(before, STDOUT_FILENO);
  close(before);
  std::rewind(kept);
  char text[4096] = {};
  const size_t count = std::fread(text, 1, sizeof text - 1, kept);
  std::fclose(kept);
  const std::string said(text, count);
  INFO(said);
  const size_t told = said.find("warning: /dev/full cannot be written: No space left on device\n");
  REQUIRE(told != std::string::npos);
  REQUIRE(said.find("LOG ERROR") == std::string::npos);
  REQUIRE(said.find("/dev/full", told + 20) == std::string::npos);
  const Config config = tiny_config(Strategy::mixed);
  REQUIRE_THROWS_WITH(Progress(config, "/dev/null/log.txt"),
                      Catch::Matchers::ContainsSubstring("/dev/null/log.txt cannot be opened for writing: "));
}

}  // namespace dither
