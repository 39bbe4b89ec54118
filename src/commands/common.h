// What several commands share: --set, warnings, and finding trained weights with their config and tokenizer.
#pragma once

#include <string>
#include <vector>

#include "src/config/config.h"
#include "src/data/tokenizer.h"

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

/// The weights file that a user means: the file itself, or weights.safetensors of a run's folder. Throws Error where
/// neither is there.
std::string weights_file(const std::string& file_or_run);

/// The config inside a weights file, with assignments over it, for forward passes alone: one micro-batch of
/// `sequences` (0: as in training) and no accumulation. Prints the config's warnings. Throws Error where the file does
/// not have the tensors of that model.
Config config_for_inference(const std::string& weights, const std::vector<std::string>& assignments, int sequences);

/// Throws Error where the weights in a file say that they were trained with another tokenizer.
void check_tokenizer_of(const std::string& weights, const Tokenizer& tokenizer);

}  // namespace dither
