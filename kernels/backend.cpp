#include "kernels/backend.h"

#include "base/error.h"

namespace dither {

void Backend::use_algorithms(const std::string& /*json*/, const std::string& where) {
  throw Error(where + ": a table of algorithms is for CUDA, and this run is on " + description());
}

void Backend::tune(bool /*on*/) {
  throw Error("there is nothing to tune on " + description() + ": algorithms are chosen for CUDA's matrix products");
}

}  // namespace dither
