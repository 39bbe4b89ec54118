// What the check() functions share: each demand names its operation and shows the value that broke it.
#pragma once

#include <cstdint>

#include "kernels/view.h"

namespace dither {

/// Throws Error "<operation>: <what> is <value>, needs <allowed>" unless `ok`.
void demand(bool ok, const char* operation, const char* what, int64_t value, const char* allowed);

/// The view is present and BF16 or FP32.
void demand_float(const char* operation, const char* what, ConstView view);
/// The view is present and of `type`.
void demand_type(const char* operation, const char* what, ConstView view, DType type);

}  // namespace dither
