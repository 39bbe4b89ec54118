// What several commands share: --set, numbers, warnings.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace dither {

/// Gives a command `--set key=value`, as often as one likes.
void add_set_option(CLI::App& command, std::vector<std::string>& assignments);

/// On stderr.
void print_warnings(const std::vector<std::string>& warnings);

/// Gives a command an option whose value is a number above 0 and up to `most`: neither nan nor infinity.
void add_number(CLI::App& command, const std::string& name, double& value, const std::string& meaning,
                const std::string& unit, double most);

}  // namespace dither
