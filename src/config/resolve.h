// The step between what was given and a complete Config; load_config() takes it once, load_study() once a run.
#pragma once

#include <string>
#include <vector>

#include "src/config/config.h"  // Config

namespace dither {

struct Given;

/// Fills in preset and defaults and checks everything; `vary` is not looked at. Throws Error and warns as
/// load_config().
Config resolve(const Given& given, std::vector<std::string>& warnings);

}  // namespace dither
