#include "src/comparison/report.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include "base/error.h"
#include "base/input_file.h"
#include "src/comparison/report_archive.h"
#include "src/comparison/tables.h"

namespace dither {

namespace fs = std::filesystem;

namespace {

constexpr const char* kSystemPython = "/usr/bin/python3";
constexpr const char* kCure =
    "\n       cure: apt-get install python3-matplotlib python3-scipy, or let DITHER_PYTHON "
    "name a Python that has both; then `dither report`";

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) throw Error(path + " cannot be written: is the disk full?");
}

/// The Pythons to try, in this order: the next where one lacks a package. A virtual environment comes last, so that one
/// made for something else does not hide the system's packages.
std::vector<std::string> pythons() {
  const char* named = std::getenv("DITHER_PYTHON");
  if (named != nullptr && *named != '\0') return {named};
  std::vector<std::string> found = {access(kSystemPython, X_OK) == 0 ? kSystemPython : "python3"};
  const char* environment = std::getenv("VIRTUAL_ENV");
  const std::string own = environment != nullptr ? std::string(environment) + "/bin/python3" : "";
  if (!own.empty() && access(own.c_str(), X_OK) == 0) found.push_back(own);
  return found;
}

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

/// A file without a name, gone when it is closed.
File nameless_file() {
  File file(std::tmpfile(), std::fclose);
  if (!file) throw Error(std::string("no temporary file can be made: ") + std::strerror(errno));
  return file;
}

/// Runs `words` with `input` as its standard input, output thrown away, errors in `errors`; the wait status, or -1 with
/// errno where the program cannot be run.
int run(const std::vector<std::string>& words, std::FILE* input, std::FILE* errors) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, fileno(input), STDIN_FILENO);
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_adddup2(&files, fileno(errors), STDERR_FILENO);
  pid_t process = -1;
  const int failed = posix_spawnp(&process, arguments[0], &files, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  int status = -1;
  while (failed == 0 && waitpid(process, &status, 0) < 0 && errno == EINTR) {
  }
  errno = failed;
  return failed == 0 ? status : -1;
}

/// The last line that says something, without the "error: " that is ours to say.
std::string last_line(std::FILE* file) {
  std::string text, last;
  char part[4096];
  std::rewind(file);
  for (size_t read = 0; (read = std::fread(part, 1, sizeof part, file)) > 0;) text.append(part, read);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (end > begin) last = text.substr(begin, end - begin);
    begin = end + 1;
  }
  return last.rfind("error: ", 0) == 0 ? last.substr(7) : last;
}

/// What one Python says against the report: "" where it has made it. `missing`: it lacks a package, and has said the
/// cure.
std::string failure_of(const std::string& python, const ReportOptions& options, bool& missing) {
  // Python imports from an archive and not from the working directory, where a csv.py would be taken for Python's own.
  // An archive must be a file that can be opened again: the standard input is one, though it has no name on the disk.
  std::vector<std::string> words = {python, "/dev/stdin", options.folder};
  if (!options.baseline.empty()) words.push_back("--baseline=" + options.baseline);
  if (!options.title.empty()) words.push_back("--title=" + options.title);
  const File archive = nameless_file(), errors = nameless_file();
  const std::string_view bytes = report_archive();
  if (std::fwrite(bytes.data(), 1, bytes.size(), archive.get()) != bytes.size() || std::fflush(archive.get()) != 0) {
    throw Error(std::string("a temporary file cannot be written: ") + std::strerror(errno));
  }
  const std::string kept = "\n       " + options.folder + "/runs.csv and curves.csv are written";
  const int status = run(words, archive.get(), errors.get());
  missing = status < 0;
  if (status == 0) return "";
  if (status < 0) return python + " cannot be run: " + std::strerror(errno) + kept + kCure;
  const std::string said = last_line(errors.get());
  missing = said.find(" is missing, the report needs ") != std::string::npos;
  return (said.empty() ? python + " failed without a word" : said) + kept +
         (missing ? "" : "; `dither report` makes it from the same runs again");
}

void run_script(const ReportOptions& options) {
  std::string failure;
  for (const std::string& python : pythons()) {
    bool missing = false;
    failure = failure_of(python, options, missing);
    if (failure.empty()) return;
    if (!missing) break;
  }
  throw Error("no report: " + failure);
}

/// The folders of runs at or below `folder`, by name. What lies in a run's folder is the run's own.
void collect(const fs::path& folder, std::vector<std::string>& found) {
  if (is_run_folder(folder.string())) {
    found.push_back(folder.string());
    return;
  }
  std::vector<fs::path> below;
  std::error_code unreadable;  // such a folder has no runs that could be read
  for (const auto& entry : fs::directory_iterator(folder, unreadable)) {
    // A link may lead back up: it is followed to a run alone.
    const bool passage =
        entry.is_symlink(unreadable) ? is_run_folder(entry.path().string()) : entry.is_directory(unreadable);
    if (passage) below.push_back(entry.path());
  }
  std::sort(below.begin(), below.end());
  for (const fs::path& path : below) collect(path, found);
}

}  // namespace

std::vector<std::string> run_folders(const std::vector<std::string>& names) {
  std::vector<std::string> folders;
  std::vector<fs::path> known;
  for (const std::string& name : names) {
    std::error_code unknown;
    if (!fs::is_directory(name, unknown))
      throw Error(name + " is not a folder: needs a run's folder, or one above runs");
    fs::path named = fs::path(name).lexically_normal();
    if (!named.has_filename() && named.has_relative_path()) named = named.parent_path();  // "runs/quick/"
    std::vector<std::string> found;
    collect(named, found);
    if (found.empty()) throw Error(name + " has no runs: neither it nor a folder below it holds a config.json");
    for (const std::string& folder : found) {
      const fs::path place = fs::weakly_canonical(folder, unknown);
      if (std::find(known.begin(), known.end(), place) != known.end()) continue;
      known.push_back(place);
      folders.push_back(folder);
    }
  }
  return folders;
}

std::string default_report_folder(const std::vector<std::string>& folders) {
  const bool mixed = std::any_of(folders.begin(), folders.end(), [&folders](const std::string& folder) {
    return fs::path(folder).is_absolute() != fs::path(folders.front()).is_absolute();
  });
  fs::path common;
  for (size_t i = 0; i < folders.size(); ++i) {
    const fs::path parent = (mixed ? fs::absolute(folders[i]) : fs::path(folders[i])).lexically_normal().parent_path();
    if (i == 0) common = parent;
    const auto end = std::mismatch(common.begin(), common.end(), parent.begin(), parent.end()).first;
    fs::path shared;
    for (auto part = common.begin(); part != end; ++part) shared /= *part;
    common = shared;
  }
  return (common / "report").string();
}

std::string write_report(const std::vector<RunRecord>& records, const ReportOptions& options) {
  std::error_code failed;
  fs::create_directories(options.folder, failed);
  if (failed) throw Error(options.folder + ": the folder cannot be made: " + failed.message());
  write_file(options.folder + "/runs.csv", runs_csv(records));
  write_file(options.folder + "/curves.csv", curves_csv(records, options.points));
  run_script(options);
  return read_input(options.folder + "/summary.md", {"a summary", "a text", 64 << 20}) + "\n" + options.folder +
         "/report.html\n";
}

}  // namespace dither
