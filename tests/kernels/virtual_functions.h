// What backend.h declares, read from its text: tests that must cover every operation compare their cases with it.
#pragma once

#include <set>
#include <string>

namespace dither {

/// The text of a file of this repository.
std::string source_text(const std::string& path);
/// Names of the virtual functions declared in a header's text, comments left out.
std::set<std::string> virtual_functions(const std::string& header);

}  // namespace dither
