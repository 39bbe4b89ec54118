// scripts/report.py as the program carries it: cmake/embed_text.cmake writes the source behind this when the script
// changes, so that a report needs no file but the program.
#pragma once

#include <string_view>

namespace dither {

std::string_view report_script();

}  // namespace dither
