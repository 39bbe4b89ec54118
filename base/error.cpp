#include "base/error.h"

#include <cstdio>
#include <cstdlib>

namespace dither {

void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: broken assertion: %s\n", file, line, condition);
  std::abort();
}

}  // namespace dither
