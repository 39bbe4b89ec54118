// Whether this processor has what the program was compiled for: asked before anything else runs, main()'s static
// initialisers included, so that the answer is a message and not an illegal instruction.
//
// processor.cpp is compiled for any processor of its kind, without -march=; processor_target.cpp, with the program's
// own flags, holds no code, only what the compiler said of them. A program that links base runs the check by itself.
#pragma once

#include <cstddef>

namespace dither {

struct ProcessorFeature {
  const char* name;  // as in /proc/cpuinfo
  bool used;         // the program was compiled for processors that have it
  bool there;        // this processor has it, and its system saves its registers
};

constexpr int kMostProcessorFeatures = 64;

/// Fills `features`, which has room for kMostProcessorFeatures, and returns how many there are.
int processor_features(ProcessorFeature* features);

/// Writes an error that names the features that are used but not there, with the cure, as text that ends with a zero;
/// false, and no text, if there is none. `arch`: the value of -march=. What does not fit into `capacity` bytes is cut.
bool processor_error(const ProcessorFeature* features, int count, const char* arch, char* text, size_t capacity);

/// By feature, in the order of processor_features(): its `used`.
extern const bool kProcessorTarget[];

}  // namespace dither
