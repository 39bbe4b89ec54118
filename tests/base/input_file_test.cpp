// What may be opened, and what may be printed.
#include "base/input_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <new>
#include <string>
#include <system_error>

#include "base/error.h"
#include "base/printable.h"
#include "base/words.h"
#include "tests/catch.h"

namespace dither {
namespace {

constexpr InputKind kNote = {"a note", "a text file", 16};

std::string error_of(const std::string& path, const std::string& complaint = "") {
  try {
    return "read: " + read_input(path, kNote, complaint);
  } catch (const Error& e) {
    return e.what();
  }
}

}  // namespace

// Catches: a FIFO that is waited for, a device that is read without end, a directory with the library's words, a size
// that is looked at after the file was read, a message without the path.
TEST_CASE("only a regular file of an allowed size is read") {
  std::string folder = (std::filesystem::temp_directory_path() / "dither-input-XXXXXX").string();
  REQUIRE(mkdtemp(folder.data()) != nullptr);
  const std::string fifo = folder + "/fifo", file = folder + "/file", large = folder + "/large";
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  std::ofstream(file) << "sixteen letters.";
  std::ofstream(large) << "seventeen letters";
  CHECK(error_of(file) == "read: sixteen letters.");
  CHECK(error_of(fifo) == fifo + " is a FIFO or pipe, needs a text file");
  CHECK(error_of("/dev/zero") == "/dev/zero is a device, needs a text file");
  CHECK(error_of(folder) == folder + " is a directory, needs a text file");
  CHECK(error_of(large) == large + " is larger than 16 bytes: not a note (it has 17 bytes)");
  CHECK(error_of("/proc/self/status") == "/proc/self/status is larger than 16 bytes: not a note");  // says it has 0
  CHECK(error_of(folder + "/none", "a.json: extends none, which") ==
        "a.json: extends none, which cannot be opened: No such file or directory");
  CHECK(read_input_from(file, kNote, 8, 3) == "let");
  CHECK(read_input_from(file, kNote, 99, 3).empty());
  std::filesystem::remove_all(folder);
}

// Catches: an escape sequence, a return or a backspace that a terminal obeys, C1 controls in both of their forms, text
// beyond ASCII taken for them, an overlong form of ESC.
TEST_CASE("what a terminal would obey is shown") {
  CHECK(visible("a\x1b[31mb\rc\bd\x7f") == "a\\x1b[31mb\\x0dc\\x08d\\x7f");
  CHECK(visible("line\n\ttab") == "line\n\ttab");
  CHECK(visible("Gr\xc3\xb6\xc3\x9f"
                "e \xe2\x82\xac \xf0\x9f\x99\x82") ==
        "Gr\xc3\xb6\xc3\x9f"
        "e \xe2\x82\xac \xf0\x9f\x99\x82");
  CHECK(visible("\xc2\x9b"
                "31m \x9b"
                "31m") == "\\xc2\\x9b31m \\x9b31m");
  CHECK(visible("\xc1\x9b \xe2\x82 \xed\xa0\x80") == "\\xc1\\x9b \\xe2\\x82 \\xed\\xa0\\x80");
}

// Catches: names of the library's functions and classes in what a user reads.
TEST_CASE("errors of the standard library are told in words of the system") {
  try {
    std::filesystem::create_directory("/proc/no/such");
    FAIL("it was made");
  } catch (const std::exception& e) {
    CHECK(words_of(e) == "/proc/no/such: No such file or directory");
  }
  const std::ios_base::failure stream("basic_filebuf::underflow error reading the file",
                                      std::make_error_code(std::errc::is_a_directory));
  CHECK(words_of(stream) == "a file or the system refused: Is a directory");
  const std::system_error thread(std::make_error_code(std::errc::resource_unavailable_try_again));
  CHECK(words_of(thread).find("no further thread") != std::string::npos);
  CHECK(words_of(thread).find("parallel.threads") != std::string::npos);
  CHECK(words_of(std::bad_alloc()).find("out of memory") == 0);
  CHECK(words_of(Error("as it is")) == "as it is");
}

}  // namespace dither
