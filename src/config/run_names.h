// Names of a study's runs: what varies, short enough to be a folder's name and a line's label.
#pragma once

#include <string>
#include <vector>

#include "src/config/config.h"

namespace dither {

struct Key;

/// One name for each config, all different: "bf16_sr,v=stochastic,lr=0.002,b2=0.999,seed=1". Of the `varied` keys, the
/// strategy first and the others in their order, those that differ among the configs; all of them where there is one
/// config only. No two of the configs compute the same. Every name satisfies TextRule::folder_name.
std::vector<std::string> run_names(std::vector<const Key*> varied, const std::vector<Config>& configs);

}  // namespace dither
