// What a single key's range cannot see: keys that contradict each other, and combinations that only look wrong.
#pragma once

#include <string>
#include <vector>

#include "src/config/config.h"

namespace dither {

struct Given;

/// Throws Error for the first contradiction in a config whose values all lie in their ranges and whose defaults are
/// filled in. `given` says which file a key came from, and whether it was given at all.
void check_contradictions(const Config& config, const Given& given);

/// Appends one message for each thing that is allowed but looks wrong.
void collect_warnings(const Config& config, const Given& given, std::vector<std::string>& warnings);

}  // namespace dither
