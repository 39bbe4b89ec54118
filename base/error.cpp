#include "base/error.h"

#include "base/assertion_end.h"

#include <cstdio>
#include <cstdlib>

namespace dither {

namespace {

std::string& origin_text() {
  static std::string text;
  return text;
}

void (*assertion_end)() = nullptr;  // set before there are threads

}  // namespace

void end_assertions_by(void (*end)()) { assertion_end = end; }

void set_error_origin(const std::string& origin) { origin_text() = origin; }
const std::string& error_origin() { return origin_text(); }

// _Exit runs no destructor and no handler, which may wait for the thread that has failed; what standard output has
// taken is lost with it. It ends all threads, those of a parallel region too.
void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "%sinternal error: %s:%d: broken assertion: %s\n", error_origin().c_str(), file, line,
               condition);
  if (assertion_end != nullptr) assertion_end();
  std::_Exit(kInternalErrorStatus);
}

}  // namespace dither
