// Further demands of the check() functions: tensors that must not share memory, scalars that must be above zero.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "kernels/operations/check.h"

namespace dither {

/// Throws Error "<operation>: <what> is <bytes>, needs tensors that do not overlap" if `a` and `b` share a byte.
/// `what` names the distance in bytes from a to b. Absent tensors overlap nothing.
inline void demand_apart(const char* operation, const char* what, ConstView a, int64_t a_elements, ConstView b,
                         int64_t b_elements) {
  if (!a || !b) return;
  const auto from = reinterpret_cast<intptr_t>(a.data), to = reinterpret_cast<intptr_t>(b.data);
  const bool apart = from + a_elements * size_of(a.type) <= to || to + b_elements * size_of(b.type) <= from;
  demand(apart, operation, what, to - from, "tensors that do not overlap");
}

/// The same, but the very same tensor is allowed: elementwise operations may work in place.
inline void demand_same_or_apart(const char* operation, const char* what, ConstView a, ConstView b, int64_t elements) {
  if (a.data != b.data) demand_apart(operation, what, a, elements, b, elements);
}

/// Throws Error "<operation>: <what> is <value>, needs a real above 0"; a NaN is not above 0.
inline void demand_positive(const char* operation, const char* what, float value) {
  if (value > 0) return;
  throw Error(std::string(operation) + ": " + what + " is " + std::to_string(value) + ", needs a real above 0");
}

}  // namespace dither
