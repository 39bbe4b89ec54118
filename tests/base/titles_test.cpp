// The titles of the tests: Catch2 2 hands them to CMake as a list, which a semicolon cuts in two; CTest would then run
// two titles that do not exist, and call both of them passed.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <string>

#include "tests/catch.h"

namespace dither {
namespace {

/// The titles in a source text that hold a semicolon, one a line.
std::string cut_titles(const std::string& source) {
  static const std::regex title(R"re((?:TEST_CASE|OPERATION_TEST)\((?:\w+,)?\s*"([^"\n]*;[^"\n]*)")re");
  std::string found;
  for (std::sregex_iterator it(source.begin(), source.end(), title), end; it != end; ++it) found += it->str(1) + "\n";
  return found;
}

}  // namespace

TEST_CASE("no title of a test holds a semicolon") {
  std::string found;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(std::string(DITHER_SOURCE_DIR) + "/tests")) {
    if (entry.path().extension() != ".cpp") continue;
    std::ifstream file(entry.path());
    found += cut_titles({std::istreambuf_iterator<char>(file), {}});
  }
  INFO(found);
  CHECK(found.empty());
  const std::string semicolon(1, 59);
  CHECK(cut_titles("OPERATION_TEST(adamw, \"one" + semicolon + " two\") {") == "one" + semicolon + " two\n");
  CHECK(cut_titles("TEST_CASE(\"one, two\") { f(\"a" + semicolon + "b\"); }").empty());
}

}  // namespace dither
