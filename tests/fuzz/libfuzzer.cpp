// A target as libFuzzer calls it (preset `fuzz`).
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dither::accepts(data, size);
  return 0;
}
