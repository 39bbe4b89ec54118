// What `dither plan` says: for a terminal, as JSON for programs, and as the tables of docs/scaling.md.
#pragma once

#include <string>

#include "src/planning/plan.h"

namespace dither {

std::string text_of(const ScalePlan& plan);
std::string json_of(const ScalePlan& plan);
/// One line of what is planned, and the table of stages.
std::string markdown_of(const ScalePlan& plan);
/// All inputs, known devices and links with their sources.
std::string inputs_page();

}  // namespace dither
