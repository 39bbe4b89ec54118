// The floors of the house (docs/architecture.md), held by reading every #include line: a room includes only from lower
// floors, heavy headers stay out of headers, only the rooms that own a JSON format parse JSON, no file outgrows a
// sitting.
#ifndef __clang__  // GCC 12 under AddressSanitizer takes a member of <regex> for uninitialised
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "tests/catch.h"

namespace dither {
namespace {

using Texts = std::vector<std::string>;

constexpr long kLongestFile = 500;  // lines; aim under 400

/// Folder -> what its files may include besides their own folder. A file belongs to the longest folder that fits.
const std::map<std::string, Texts> kFloors = {
    {"base", {}},
    {"kernels/numerics", {"base"}},
    {"kernels", {"base", "kernels/numerics"}},
    {"kernels/cpu", {"base", "kernels/numerics", "kernels"}},
    {"kernels/no_cuda", {"base", "kernels/numerics", "kernels"}},
    {"kernels/cuda", {"base", "kernels/numerics", "kernels", "tests/cuda_host"}},
    {"tests/cuda_host", {}},  // CUDA's words, for kernels compiled as plain C++
    {"src/config", {"base", "kernels/numerics"}},
    {"src/model", {"base", "kernels/numerics", "kernels", "src/config"}},
    {"src/optimizer", {"base", "kernels/numerics", "kernels", "src/config", "src/model"}},
    {"src/parallel", {"base", "kernels/numerics", "kernels", "src/config", "src/model", "src/optimizer"}},
    {"src/parallel/zero",
     {"base", "kernels/numerics", "kernels", "src/config", "src/model", "src/optimizer", "src/parallel"}},
    {"src/parallel/nccl", {"base", "kernels/numerics", "kernels", "kernels/cuda", "src/parallel", "tests/cuda_host"}},
    {"src/parallel/no_nccl", {"base", "kernels/numerics", "kernels", "src/parallel"}},
    {"src/data", {"base", "kernels/numerics", "kernels", "src/config"}},
    {"src/checkpoint", {"base", "kernels/numerics", "kernels", "src/config", "src/model", "src/optimizer"}},
    {"src/training",
     {"base", "kernels/numerics", "kernels", "src/config", "src/model", "src/optimizer", "src/parallel",
      "src/parallel/zero", "src/data", "src/checkpoint"}},
    {"src/comparison",
     {"base", "kernels/numerics", "kernels", "src/config", "src/model", "src/optimizer", "src/data", "src/checkpoint",
      "src/training"}},
    {"src/benchmark",
     {"base", "kernels/numerics", "kernels", "src/config", "src/model", "src/optimizer", "src/parallel",
      "src/parallel/zero", "src/training"}},
    {"src/planning",
     {"base", "kernels/numerics", "kernels", "src/config", "src/model", "src/optimizer", "src/parallel",
      "src/parallel/zero", "src/training"}},
    {"src/commands",
     {"base", "kernels/numerics", "kernels", "src/config", "src/model", "src/optimizer", "src/parallel",
      "src/parallel/zero", "src/data", "src/checkpoint", "src/training", "src/comparison", "src/benchmark",
      "src/planning"}},
    {"src", {"base", "src/commands"}},  // main.cpp: one line a command
};

/// Each costs a second or more in every file that sees it. json_fwd.hpp only declares names.
const std::regex kHeavy(R"(^(nlohmann/(?!json_fwd)|spdlog/|fmt/|CLI/|catch2/|mpi\.h|nccl\.h))");

/// Rooms that parse JSON: the config's text, the headers of safetensors files with the manifests beside them, the
/// events of metrics.jsonl, and the table of algorithms of matrix products.
const Texts kParsers = {"src/config", "src/checkpoint", "src/comparison", "kernels/cuda"};

std::string room_of(const std::string& path) {
  std::string room;
  for (const auto& [folder, below] : kFloors) {
    if (path.rfind(folder + "/", 0) == 0 && folder.size() > room.size()) room = folder;
  }
  return room;
}

bool contains(const Texts& list, const std::string& item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

Texts lines_of(const std::string& text) {
  Texts lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// What is wrong with the file `path` (from the repository's root) that holds `text`.
Texts violations(const std::string& path, const std::string& text) {
  static const std::regex include(R"(^\s*#\s*include\s*(["<])([^">]+)[">])");
  static const std::regex parse(R"(\b[Jj]son::(sax_parse|parse|accept)\b)");
  const std::string room = room_of(path);
  if (room.empty()) return {path + ": this folder stands on no floor: add it to kFloors"};
  const bool header = path.size() > 2 && path.compare(path.size() - 2, 2, ".h") == 0;
  Texts found;
  const auto complain = [&](const std::string& what) { found.push_back(path + ": " + what); };
  const Texts lines = lines_of(text);
  if (static_cast<long>(lines.size()) > kLongestFile) {
    complain(std::to_string(lines.size()) + " lines, at most " + std::to_string(kLongestFile));
  }
  for (const std::string& line : lines) {
    if (std::regex_search(line, parse) && !contains(kParsers, room)) complain("parses JSON");
    std::smatch match;
    if (!std::regex_search(line, match, include)) continue;
    const std::string target = match[2];
    if (std::regex_search(target, kHeavy)) {
      if (header) complain("heavy header " + target + " in a header");
      continue;
    }
    if (match[1] == "<") continue;
    const std::string below = room_of(target);
    if (below.empty()) {
      complain(std::string(target).append(" is not a path from the repository's root"));
    } else if (below != room && !contains(kFloors.at(room), below)) {
      complain(std::string(room).append(" may not include ").append(target));
    }
  }
  return found;
}

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

TEST_CASE("every include goes down, heavy headers stay in sources, files read in one sitting") {
  const std::filesystem::path root = DITHER_SOURCE_DIR;
  Texts found;
  int files = 0;
  for (const char* folder : {"base", "kernels", "src"}) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root / folder)) {
      const std::string extension = entry.path().extension().string();
      if (extension != ".h" && extension != ".cpp" && extension != ".cu") continue;
      ++files;
      const Texts more = violations(entry.path().lexically_relative(root).generic_string(), text_of(entry.path()));
      found.insert(found.end(), more.begin(), more.end());
    }
  }
  std::string all;
  for (const std::string& violation : found) all.append(violation).append("\n");
  INFO(all);
  REQUIRE(found.empty());
  REQUIRE(files > 50);  // it did read the house
}

// Catches: a test of floors that passes whatever the files say.
TEST_CASE("a forbidden include, a heavy header, a stray parser and a long file are found") {
  const auto include = [](const std::string& target) { return "// text\n#include " + target + "\n"; };
  const auto count = [&](const std::string& path, const std::string& target) {
    return violations(path, include(target)).size();
  };
  REQUIRE(violations("src/data/loader.cpp", include("\"src/model/model.h\"")) ==
          Texts{"src/data/loader.cpp: src/data may not include src/model/model.h"});
  REQUIRE(count("src/data/loader.cpp", "\"src/config/config.h\"") == 0);
  REQUIRE(count("src/data/loader.cpp", "\"src/checkpoint/safetensors.h\"") == 1);
  REQUIRE(count("src/checkpoint/save.cpp", "\"src/data/loader.h\"") == 1);
  REQUIRE(count("src/checkpoint/save.cpp", "\"src/parallel/communicator.h\"") == 1);
  REQUIRE(count("src/parallel/shards.cpp", "\"src/data/loader.h\"") == 1);
  REQUIRE(count("src/parallel/shards.cpp", "\"src/model/parameter_access.h\"") == 0);
  REQUIRE(count("src/optimizer/optimizer.cpp", "\"src/parallel/communicator.h\"") == 1);
  REQUIRE(count("src/parallel/link.h", "<mpi.h>") == 1);
  REQUIRE(count("src/checkpoint/save.cpp", "\"src/optimizer/optimizer.h\"") == 0);
  REQUIRE(count("src/model/model.cpp", "\"src/optimizer/optimizer.h\"") == 1);
  REQUIRE(count("src/model/model.cpp", "\"kernels/cpu/cpu_backend.h\"") == 1);
  REQUIRE(count("src/model/model.cpp", "\"kernels/backend.h\"") == 0);
  REQUIRE(count("src/config/load.cpp", "\"kernels/numerics/strategy.h\"") == 0);
  REQUIRE(count("src/config/load.cpp", "\"kernels/backend.h\"") == 1);
  REQUIRE(count("src/training/trainer.cpp", "\"src/commands/train.h\"") == 1);
  REQUIRE(count("src/commands/train.cpp", "\"src/training/trainer.h\"") == 0);
  REQUIRE(count("kernels/numerics/adamw.h", "\"kernels/view.h\"") == 1);
  REQUIRE(count("kernels/operations/loss.cpp", "\"kernels/cpu/vector.h\"") == 1);
  REQUIRE(count("kernels/cpu/loss.cpp", "\"kernels/operations/loss.h\"") == 0);
  REQUIRE(count("base/error.h", "\"kernels/view.h\"") == 1);
  REQUIRE(count("src/main.cpp", "\"src/model/model.h\"") == 1);
  REQUIRE(count("src/model/model.cpp", "\"model.h\"") == 1);
  REQUIRE(violations("elsewhere/x.h", "") == Texts{"elsewhere/x.h: this folder stands on no floor: add it to kFloors"});

  REQUIRE(violations("src/training/log.h", include("<spdlog/spdlog.h>")) ==
          Texts{"src/training/log.h: heavy header spdlog/spdlog.h in a header"});
  REQUIRE(count("src/training/log.cpp", "<spdlog/spdlog.h>") == 0);
  REQUIRE(count("src/config/keys.h", "<nlohmann/json.hpp>") == 1);
  REQUIRE(count("src/config/keys.h", "<nlohmann/json_fwd.hpp>") == 0);
  REQUIRE(count("base/text.h", "<fmt/format.h>") == 1);
  REQUIRE(count("src/commands/line.h", "<CLI/CLI.hpp>") == 1);
  REQUIRE(count("base/text.h", "<string>") == 0);

  const std::string parser = "const auto config = nlohmann::json::parse(text);\n";
  REQUIRE(violations("src/training/loop.cpp", parser) == Texts{"src/training/loop.cpp: parses JSON"});
  REQUIRE(violations("src/config/document.cpp", parser).empty());

  std::string lines;
  for (long i = 0; i < kLongestFile; ++i) lines += "\n";
  REQUIRE(violations("base/long.cpp", lines).empty());
  REQUIRE(violations("base/long.cpp", lines + "\n") == Texts{"base/long.cpp: 501 lines, at most 500"});
}

}  // namespace dither
