#include "src/commands/common.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>

#include "base/printable.h"

namespace dither {

void add_set_option(CLI::App& command, std::vector<std::string>& assignments) {
  command
      .add_option("--set", assignments, "Override a key of the config, as in optimizer.learning_rate=3e-4; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);  // one value each, so that what follows is not taken for a second one
}

void print_warnings(const std::vector<std::string>& warnings) {
  for (const std::string& warning : warnings) std::fprintf(stderr, "warning: %s\n", visible(warning).c_str());
}

void add_number(CLI::App& command, const std::string& name, double& value, const std::string& meaning,
                const std::string& unit, double most) {
  const auto wrong = [most](const std::string& text) -> std::string {
    char* end = nullptr;
    const double number = std::strtod(text.c_str(), &end);
    const bool fits = !text.empty() && *end == '\0' && number > 0 && number <= most;  // false for nan
    return fits ? "" : fmt::format("{} is no number above 0 and up to {:g}", text, most);
  };
  command.add_option(name, value, meaning)->type_name(unit)->check(CLI::Validator(wrong, ""));
}

}  // namespace dither
