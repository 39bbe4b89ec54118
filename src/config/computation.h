// What a config computes, apart from where it runs, what it is called and what it prints: the text that says so.
#pragma once

#include <string>

#include "src/config/config.h"

namespace dither {

struct Key;

/// Whether two runs that differ in this key alone differ in their weights or measures. The seed does; how many threads
/// compute, when checkpoints are written, where results go and which samples are printed do not.
bool decides_computation(const Key& key);

/// One line "path=value" for each key that decides, seed included, in the order of the table.
std::string computation_text(const Config& config);

/// The value of a key as JSON; a text without its quotes.
std::string value_text(const Key& key, const Config& config);

/// XXH3-64 as 16 hexadecimal digits: the same on every machine.
std::string hash_text(const std::string& text);

}  // namespace dither
