// torture_checkpoints: kills training runs at random moments, half of them while a checkpoint is written, resumes them
// by the same command, and compares what they come to with a run that nobody has killed.
//
//   torture_checkpoints --kills N --seed S [--ranks R] [--zero-stage Z] [--forgetful] [--steps K] [--folder PATH]
//
// --forgetful also loses, after each kill, whatever had not been synced (tests/checkpoint_faults/forgetful_disk.h).
// --folder is made, and kept if something was wrong; without it there is one among the temporary files.
//
// Exit status   0  all as it should be, and at least a third of the kills fell inside the writing of a checkpoint
//               1  something was not; told on stderr, with the command that repeats it
//               2  an argument is wrong
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>

#include "base/error.h"
#include "tests/torture/job.h"
#include "tests/torture/torture.h"

namespace {

using dither::Error;
using dither::torture::Figures;
using dither::torture::Options;

constexpr const char* kUsage =
    "torture_checkpoints --kills N --seed S [--ranks R] [--zero-stage Z] [--forgetful] [--steps K] [--folder PATH]";

int64_t number(const std::string& option, const char* text, int64_t least, int64_t most) {
  int64_t value = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, failed] = std::from_chars(text, end, value);
  if (failed == std::errc() && stop == end && value >= least && value <= most) return value;
  throw Error(option + " is " + text + ", needs an integer from " + std::to_string(least) + " to " +
              std::to_string(most));
}

Options parsed(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--forgetful") {
      options.forgetful = true;
      continue;
    }
    if (i + 1 == argc) throw Error(option + " is unknown or needs a value; " + kUsage);
    const char* value = argv[++i];
    if (option == "--kills") {
      options.kills = number(option, value, 1, 1000000);
    } else if (option == "--seed") {
      options.seed = static_cast<uint64_t>(number(option, value, 0, 1000000000));
    } else if (option == "--ranks") {
      options.ranks = static_cast<int>(number(option, value, 1, 64));
    } else if (option == "--zero-stage") {
      options.zero_stage = static_cast<int>(number(option, value, 0, 3));
    } else if (option == "--steps") {
      options.steps = number(option, value, 8, 1000000);
    } else if (option == "--folder") {
      options.folder = value;
    } else {
      throw Error(option + " is no option; " + kUsage);
    }
  }
  return options;
}

void print(const Figures& f) {
  std::printf(
      "%lld kills, %lld inside the writing or removal of a checkpoint, %lld of one rank alone; %lld runs ended with "
      "the "
      "bits of the uninterrupted one\n%lld steps done twice, at most %lld for one kill; %.1f s, %.2f s a kill\n",
      static_cast<long long>(f.kills), static_cast<long long>(f.inside), static_cast<long long>(f.of_one_rank),
      static_cast<long long>(f.runs), static_cast<long long>(f.steps_lost), static_cast<long long>(f.worst_lost),
      f.seconds, f.seconds / static_cast<double>(f.kills));
}

int tell(const std::string& message, int argc, char** argv, const std::string& folder) {
  std::fprintf(stderr, "error: %s\n       repeat:", message.c_str());
  for (int i = 0; i < argc; ++i) std::fprintf(stderr, " %s", argv[i]);
  std::fprintf(stderr, "\n       all of it is kept in %s\n", folder.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 5 && std::strcmp(argv[1], "--child") == 0) return dither::torture::run_child(argv[2], argv[3], argv[4]);
  Options options;
  try {
    options = parsed(argc, argv);
    if (options.folder.empty()) {
      options.folder =
          (std::filesystem::temp_directory_path() / ("dither-torture-" + std::to_string(getpid()))).string();
    }
    options.folder = std::filesystem::absolute(options.folder).string();
    if (std::filesystem::exists(options.folder)) throw Error("--folder: " + options.folder + " exists");
    std::filesystem::create_directories(options.folder);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 2;
  }
  try {
    const Figures figures = dither::torture::torture(options);
    print(figures);
    if (3 * figures.inside < figures.kills) {
      return tell("less than a third of the kills fell inside the writing of a checkpoint", argc, argv, options.folder);
    }
    std::filesystem::remove_all(options.folder);
    return 0;
  } catch (const std::exception& e) {
    return tell(e.what(), argc, argv, options.folder);
  }
}
