// What the tests of the config room share: a small valid config with a patch over it, and a folder of files.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "src/config/config.h"
#include "tests/catch.h"

namespace dither {

inline const char* const kSmall =
    R"({"name": "t", "steps": 10, "model": {"preset": "llama-tiny"}, "data": {"train": "train.bin"}})";

/// kSmall with a JSON merge patch over it.
inline std::string small_with(const std::string& patch) {
  nlohmann::json config = nlohmann::json::parse(kSmall);
  config.merge_patch(nlohmann::json::parse(patch));
  return config.dump();
}

inline Config parsed(const std::string& text, const std::vector<std::string>& assignments = {}) {
  std::vector<std::string> warnings;
  return parse_config(text, "t.json", assignments, warnings);
}

inline std::vector<std::string> warnings_of(const std::string& text) {
  std::vector<std::string> warnings;
  parse_config(text, "t.json", {}, warnings);
  return warnings;
}

/// The text of the Error that `act` throws; any other exception, or none, fails the test.
template <class Act>
std::string error_in(Act act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  FAIL("no Error was thrown");
  return "";
}

inline std::string error_of(const std::string& text, const std::vector<std::string>& assignments = {}) {
  INFO(text);
  return error_in([&] { parsed(text, assignments); });
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A fresh folder, gone at the end of the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    const auto base = std::filesystem::temp_directory_path();
    for (int i = 0; !std::filesystem::create_directory(path_ = base / ("dither-config-" + std::to_string(i))); ++i) {
    }
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  /// Writes a file and returns its path.
  std::string write(const std::string& name, const std::string& text) const {
    const auto file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
    return file.string();
  }
  std::string path(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace dither
