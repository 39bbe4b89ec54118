#ifndef __clang__  // GCC 12 under AddressSanitizer takes a member of <regex> for uninitialised
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "tests/kernels/virtual_functions.h"

#include <fstream>
#include <regex>
#include <sstream>

#include "tests/catch.h"

namespace dither {

std::string source_text(const std::string& path) {
  std::ifstream file(std::string(DITHER_SOURCE_DIR) + "/" + path);
  REQUIRE(file.good());
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::set<std::string> virtual_functions(const std::string& header) {
  const std::string code = std::regex_replace(header, std::regex("//[^\n]*"), "");
  static const std::regex declaration(R"(\bvirtual\b[^;{}()]*?(~?\w+)\s*\()");
  std::set<std::string> names;
  for (std::sregex_iterator it(code.begin(), code.end(), declaration), end; it != end; ++it) names.insert((*it)[1]);
  return names;
}

}  // namespace dither
