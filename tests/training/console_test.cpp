// Output that nobody takes, and files that are removed while they grow.
#include "src/training/console.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "src/training/append_file.h"
#include "src/training/signals.h"
#include "tests/catch.h"
#include "tests/training/tiny_run.h"  // TemporaryFolder

namespace dither {

namespace {

std::string text_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A pipe of which the test holds the reading end.
struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    REQUIRE(pipe(ends.data()) == 0);
    reader = ends[0];
    out = fdopen(ends[1], "w");
    REQUIRE(out != nullptr);
  }
  ~Pipe() {
    std::fclose(out);
    close(reader);
  }
  /// Until it takes no more.
  void fill() const {
    const int writer = fileno(out);
    REQUIRE(fcntl(writer, F_SETFL, O_NONBLOCK) == 0);
    const std::string piece(4096, 'x');
    while (write(writer, piece.data(), piece.size()) > 0) {
    }
    REQUIRE(fcntl(writer, F_SETFL, 0) == 0);
  }
  int reader = -1;
  std::FILE* out = nullptr;
};

}  // namespace

// Catches: SIGPIPE that ends the process, a failure that is not told, text that passes what the stream held before.
TEST_CASE("what a lost reader does not get is told, and ends nothing") {
  const auto before = std::signal(SIGPIPE, SIG_DFL);
  survive_lost_readers();
  Pipe pipe;
  std::fputs("first ", pipe.out);
  REQUIRE(write_console(pipe.out, "second").empty());
  std::array<char, 12> text{};
  REQUIRE(read(pipe.reader, text.data(), text.size()) == 12);
  REQUIRE(std::string(text.data(), text.size()) == "first second");
  REQUIRE(dup2(open("/dev/null", O_RDONLY | O_CLOEXEC), pipe.reader) == pipe.reader);  // the reader is gone
  REQUIRE(write_console(pipe.out, "third") == "Broken pipe");
  std::signal(SIGPIPE, before);
}

// Catches: a run that cannot be stopped because its reader is paused; a slow reader that loses lines.
TEST_CASE("a reader that does not read is waited for, until a request to stop comes") {
  Pipe pipe;
  pipe.fill();
  {
    const StopSignals signals;
    raise(SIGTERM);
    const auto begin = std::chrono::steady_clock::now();
    REQUIRE(write_console(pipe.out, "line") == "its reader does not read");
    REQUIRE(std::chrono::steady_clock::now() - begin < std::chrono::seconds(5));
  }
  const StopSignals forgotten;  // the next test begins without a request
  std::string taken(1 << 16, ' ');
  REQUIRE(read(pipe.reader, taken.data(), taken.size()) > 0);
  REQUIRE(write_console(pipe.out, "line").empty());
}

// Catches: a signal that ends the wait for the reader and begins a write that no later signal ends.
TEST_CASE("a request to stop is heard while a reader that does not read is waited for") {
  Pipe pipe;
  pipe.fill();
  const pthread_t self = pthread_self();
  {
    const StopSignals signals;
    std::thread sender([self] {
      std::this_thread::sleep_for(std::chrono::milliseconds(250));
      pthread_kill(self, SIGTERM);
    });
    const unsigned before = alarm(60);  // SIGALRM ends a test that waits for ever
    const std::string refusal = write_console(pipe.out, "line");
    alarm(before);
    sender.join();
    REQUIRE(refusal == "its reader does not read");
  }
  const StopSignals forgotten;
}

// Catches: lines that go into a file without a name, a first part that is missing afterwards, a file of somebody else
// that is overwritten.
TEST_CASE("a file that is removed while it grows is made again with all that was written") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/log.txt";
  AppendFile file(path);
  REQUIRE(file.append("one\n").empty());
  REQUIRE(!file.is_lost());
  std::filesystem::remove(path);
  REQUIRE(file.append("two\n").empty());
  REQUIRE(file.is_lost());
  file.restore();
  REQUIRE(!file.is_lost());
  REQUIRE(file.append("three\n").empty());
  REQUIRE(text_of(path) == "one\ntwo\nthree\n");
  REQUIRE(file.sync().empty());

  std::ofstream(path, std::ios::trunc) << "theirs\n";
  REQUIRE_THROWS(file.restore());
  REQUIRE(text_of(path) == "theirs\n");
}

}  // namespace dither
