// parse_config() on any text, with assignments as --set gives them. What it accepts is complete: its own text gives the
// same config again.
//
//   JSON text, then for each assignment a zero byte and "key=value"
//
// `extends` finds two files: base.json, a whole config, and loop.json, which extends itself.
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <vector>

#include "base/error.h"
#include "src/config/config.h"
#include "tests/fuzz/target.h"

namespace dither {
namespace {

constexpr const char* kOrigin = "text.json";

void write_text(const char* name, const char* text) {
  std::ofstream file(name);
  file << text;
  if (!file.flush()) throw std::runtime_error(std::string(name) + " could not be written");
}

/// Makes the working directory one in which `extends` finds the same files at every run.
bool enter_scratch_folder() {
  if (chdir(scratch_folder().c_str()) != 0) throw std::runtime_error(std::string("chdir: ") + std::strerror(errno));
  write_text(
      "base.json",
      R"({"steps": 10, "model": {"preset": "llama-tiny"}, "data": {"train": "a.bin"}, "optimizer": {"epsilon": 1e-6}})");
  write_text("loop.json", R"({"extends": "loop.json"})");
  return true;
}

}  // namespace

bool accepts(const uint8_t* data, size_t size) {
  static const bool entered = enter_scratch_folder();
  DITHER_ASSERT(entered);
  std::vector<std::string> parts(1);
  for (size_t i = 0; i < size; ++i) {
    if (data[i] == 0) {
      parts.emplace_back();
    } else {
      parts.back() += static_cast<char>(data[i]);
    }
  }
  const std::vector<std::string> assignments(parts.begin() + 1, parts.end());
  std::vector<std::string> warnings;
  Config config;
  try {
    config = parse_config(parts.front(), kOrigin, assignments, warnings);
  } catch (const Error&) {
    return false;
  }
  const std::string text = to_json(config);
  std::vector<std::string> again;
  DITHER_ASSERT(to_json(parse_config(text, kOrigin, {}, again)) == text);  // an Error here leaves: a finding
  return true;
}

}  // namespace dither
