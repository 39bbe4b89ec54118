// A target as libFuzzer calls it (preset `fuzz`).
#include <cstdlib>

#include "base/assertion_end.h"
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  dither::end_assertions_by(std::abort);  // libFuzzer does not hear of an exit
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dither::accepts(data, size);
  return 0;
}
