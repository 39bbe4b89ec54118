#include "base/error.h"

#include <cstdio>
#include <cstdlib>

namespace dither {

namespace {

std::string& origin_text() {
  static std::string text;
  return text;
}

}  // namespace

void set_error_origin(const std::string& origin) { origin_text() = origin; }
const std::string& error_origin() { return origin_text(); }

void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: broken assertion: %s\n", file, line, condition);
  std::abort();
}

}  // namespace dither
