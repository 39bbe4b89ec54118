// The cases of `dither bench`: every operation of backend.h at the shapes that a config gives it, on random data. An
// operation that the config's model does not use has a case too, at the shape it would have.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "src/benchmark/case_memory.h"
#include "src/config/config.h"

namespace dither {

using Call = std::function<void(Backend& backend, Stream stream)>;

struct Case {
  std::string operation;                         // its name in backend.h
  std::string shape;                             // "qkv: N 4096, I 768, O 2304"
  std::function<Call(CaseMemory& memory)> make;  // lays out and fills the tensors of one call
};

/// In the order of backend.h.
std::vector<Case> operation_cases(const Config& config);

/// The cases of these operations; of all where none is named. Throws Error for a name that is none, with all of them.
std::vector<Case> chosen_cases(const Config& config, const std::vector<std::string>& operations);

}  // namespace dither
