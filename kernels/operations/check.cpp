#include "kernels/operations/check.h"

#include <string>

#include "base/error.h"

namespace dither {

void demand(bool ok, const char* operation, const char* what, int64_t value, const char* allowed) {
  if (ok) return;
  throw Error(std::string(operation) + ": " + what + " is " + std::to_string(value) + ", needs " + allowed);
}

namespace {

void demand_present(const char* operation, const char* what, ConstView view) {
  if (view && view.type != DType::none) return;
  throw Error(std::string(operation) + ": " + what + " is absent, needs a BF16 or FP32 tensor");
}

}  // namespace

void demand_float(const char* operation, const char* what, ConstView view) {
  demand_present(operation, what, view);
  if (view.type == DType::bf16 || view.type == DType::fp32) return;
  throw Error(std::string(operation) + ": " + what + " is " + name_of(view.type) + ", needs a BF16 or FP32 tensor");
}

void demand_type(const char* operation, const char* what, ConstView view, DType type) {
  demand_present(operation, what, view);
  if (view.type == type) return;
  throw Error(std::string(operation) + ": " + what + " is " + name_of(view.type) + ", needs " + name_of(type));
}

}  // namespace dither
