// A mapped file that becomes shorter.
#include "base/bus_error.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "tests/catch.h"

namespace dither {

// Catches: a process that dies of SIGBUS without a word, another mapping's name.
TEST_CASE("touching a mapped file that was cut short names it and ends with status 2") {
  std::string path = "/tmp/dither-bus-XXXXXX";
  const int file = mkstemp(path.data());
  REQUIRE(file >= 0);
  REQUIRE(ftruncate(file, 65536) == 0);
  int messages[2];
  REQUIRE(pipe(messages) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    dup2(messages[1], STDERR_FILENO);
    report_bus_errors();
    void* mapped = mmap(nullptr, 65536, PROT_READ, MAP_PRIVATE, file, 0);
    if (mapped == MAP_FAILED || ftruncate(file, 0) != 0) _exit(3);
    _exit(static_cast<volatile char*>(mapped)[40000] == 0 ? 4 : 5);
  }
  close(messages[1]);
  std::string said;
  char part[512];
  for (ssize_t got = 0; (got = read(messages[0], part, sizeof part)) > 0;) said.append(part, static_cast<size_t>(got));
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  close(messages[0]);
  close(file);
  unlink(path.c_str());
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 2);
  CHECK(said.find("error: " + path + ": could not be read where it is mapped into memory (SIGBUS)") == 0);
}

}  // namespace dither
