// Registers which operations of backend.h have test cases; coverage_test.cpp compares them with the header.
//   OPERATION_TEST(residual_norm_forward, "the rounded sum is what is normalised") { ... }
#pragma once

#include <set>
#include <string>

#include "tests/catch.h"

namespace dither {

inline std::set<std::string>& tested_operations() {
  static std::set<std::string> names;
  return names;
}

struct TestedOperation {
  explicit TestedOperation(const char* name) { tested_operations().insert(name); }
};

}  // namespace dither

#define DITHER_JOIN2(a, b) a##b
#define DITHER_JOIN(a, b) DITHER_JOIN2(a, b)
#define OPERATION_TEST(operation, title)                                              \
  static const dither::TestedOperation DITHER_JOIN(tested_, __COUNTER__){#operation}; \
  TEST_CASE(#operation ": " title)
