// What the program says of the commit it was built from.
#include "base/commit.h"

#include <string>

#include "tests/catch.h"

namespace dither {

// Catches: git's words in place of a commit (an error, a tag, "-dirty"), a line break, an empty text.
TEST_CASE("the commit is 12 hexadecimal digits, perhaps with +changes, or unknown") {
  std::string text = commit();
  INFO(text);
  if (text == "unknown") return;  // sources without a repository of their own
  const std::string changes = "+changes";
  if (text.size() > changes.size() && text.compare(text.size() - changes.size(), changes.size(), changes) == 0) {
    text.resize(text.size() - changes.size());
  }
  REQUIRE(text.size() >= 12);  // git adds digits where 12 name two objects
  REQUIRE(text.find_first_not_of("0123456789abcdef") == std::string::npos);
}

}  // namespace dither
