// Which runs a report is made of, where it goes, and what stays where Python is missing.
#include "src/comparison/report.h"

#include <sys/stat.h>

#include <cstdlib>
#include <map>

#include "tests/catch.h"
#include "tests/comparison/hand_made.h"

namespace dither::test {

namespace fs = std::filesystem;

namespace {

/// DITHER_PYTHON for the time of a test.
class Interpreter {
 public:
  explicit Interpreter(const std::string& path) { setenv("DITHER_PYTHON", path.c_str(), 1); }
  ~Interpreter() { unsetenv("DITHER_PYTHON"); }
};

/// An interpreter that is a shell script: $2 is the report's folder.
std::string shell_script(const TemporaryFolder& place, const std::string& commands) {
  write_file(place / "python", "#!/bin/sh\n" + commands + "\n");
  chmod((place / "python").c_str(), 0755);
  return place / "python";
}

/// Name -> text of the Python modules in a folder.
std::map<std::string, std::string> modules(const std::string& folder) {
  std::map<std::string, std::string> found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".py") found[entry.path().filename().string()] = read_whole(entry.path().string());
  }
  return found;
}

std::vector<RunRecord> one_run(const TemporaryFolder& place) {
  make_run(place / "runs/a", config_text("a", 2),
           step_event(1, "2.0") + step_event(2, "1.0") + end_event(2, "completed"));
  return {read_run(place / "runs/a")};
}

}  // namespace

// Catches: a run counted twice as two seeds, a study's folder refused, its report or logs taken for runs.
TEST_CASE("a folder above runs stands for all of them, and no run counts twice") {
  const TemporaryFolder place;
  for (const std::string run : {"runs/quick/b", "runs/quick/a", "runs/c"}) {
    make_run(place / run, config_text("a", 1), "");
  }
  fs::create_directories(place / "runs/quick/logs");
  write_file(place / "runs/quick/configs/a.json", "{}");
  fs::create_directory_symlink("..", place / "runs/quick/up");
  const std::vector<std::string> study = {place / "runs/quick/a", place / "runs/quick/b"};
  REQUIRE(run_folders({place / "runs/quick"}) == study);
  REQUIRE(run_folders({place / "runs/quick/a/", place / "runs/quick/", place / "runs/quick/../quick/b"}) == study);
  REQUIRE(run_folders({place / "runs"}).size() == 3);
  REQUIRE(has(error_of([&] { run_folders({place / "gone"}); }), "gone is not a folder"));
  REQUIRE(has(error_of([&] { run_folders({place / "runs/quick/logs"}); }), "logs has no runs"));
}

// Catches: a report inside one of its runs, in the root of the disk, or under a name that two folders begin with.
TEST_CASE("the report lies beside the runs unless another place is named") {
  REQUIRE(default_report_folder({"runs/quick/a", "runs/quick/b"}) == "runs/quick/report");
  REQUIRE(default_report_folder({"runs/quick/a", "runs/c"}) == "runs/report");
  REQUIRE(default_report_folder({"runs/quick/a"}) == "runs/quick/report");
  REQUIRE(default_report_folder({"runs/quick-2/a", "runs/quick/a"}) == "runs/report");
  REQUIRE(default_report_folder({"/x/a", "/y/b"}) == "/report");
  REQUIRE(default_report_folder({"a"}) == "report");
  REQUIRE(default_report_folder({"a", "runs/b"}) == "report");
}

// Catches: other modules than the repository's, arguments lost or misread as options, a summary that nobody shows.
TEST_CASE("the program carries scripts/report and hands it to Python") {
  const TemporaryFolder place;
  const Interpreter python(shell_script(place, R"(/usr/bin/python3 -m zipfile -e "$1" "$2/carried"
printf '%s|' "$@" > "$2/arguments"; echo "| arm |" > "$2/summary.md")"));
  const std::string folder = place / "runs/report";
  const std::string said =
      write_report(one_run(place), {.folder = folder, .baseline = "--mixed, lr 1", .title = "a b"});
  REQUIRE(said == "| arm |\n\n" + folder + "/report.html\n");
  const bool same = modules(folder + "/carried") == modules(DITHER_SOURCE_DIR "/scripts/report");
  REQUIRE(same);  // in a failure 50 KB of text would say no more
  REQUIRE(read_whole(folder + "/arguments") == "/dev/stdin|" + folder + "|--baseline=--mixed, lr 1|--title=a b|");
  for (const std::string file : {"/runs.csv", "/curves.csv"}) REQUIRE(fs::file_size(folder + file) > 100);
}

// Catches: an archive that Python cannot import from, a module of the working directory taken for Python's own.
TEST_CASE("Python makes the report from what the program carries") {
  const TemporaryFolder place;
  const Interpreter python(shell_script(
      place, R"(cd "$2" && echo 'raise SystemExit("a stranger")' > csv.py && exec /usr/bin/python3 "$@")"));
  const std::string folder = place / "runs/report";
  REQUIRE(has(write_report(one_run(place), {.folder = folder, .baseline = "", .title = "a b"}), "# a b\n"));
  REQUIRE(fs::file_size(folder + "/report.html") > 100'000);
}

// Catches: figures lost with the pictures, a crash of the script passed over, a message that does not say what to
// install.
TEST_CASE("where Python is missing or fails the tables stay and the error says what helps") {
  const TemporaryFolder place;
  const std::string folder = place / "report";
  std::string error;
  SECTION("no interpreter") {
    const Interpreter python("/nonexistent");
    error = error_of([&] { write_report(one_run(place), {.folder = folder, .baseline = "", .title = ""}); });
    REQUIRE(has(error, "/nonexistent cannot be run: No such file"));
    REQUIRE(has(error, "apt-get install python3-matplotlib python3-scipy"));
  }
  SECTION("a failing script") {
    const Interpreter python(shell_script(place, "echo something >&2; echo 'error: no scipy' >&2; exit 2"));
    error = error_of([&] { write_report(one_run(place), {.folder = folder, .baseline = "", .title = ""}); });
    REQUIRE(has(error, "no report: no scipy\n"));
  }
  SECTION("a killed script") {
    const Interpreter python(shell_script(place, "kill -9 $$"));
    error = error_of([&] { write_report(one_run(place), {.folder = folder, .baseline = "", .title = ""}); });
    REQUIRE(has(error, "failed without a word"));
  }
  REQUIRE(has(error, folder + "/runs.csv and curves.csv are written"));
  REQUIRE(has(read_whole(folder + "/runs.csv"), "completed"));
  REQUIRE(has(read_whole(folder + "/curves.csv"), "\na,"));
}

}  // namespace dither::test
