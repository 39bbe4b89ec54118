// scripts/report as the program carries it, so that a report needs no file but the program: a zip archive of the
// folder's modules, which Python runs like the folder. dither_embed_folder() (cmake/rooms.cmake) writes the source
// behind this when a module changes.
#pragma once

#include <string_view>

namespace dither {

std::string_view report_archive();

}  // namespace dither
