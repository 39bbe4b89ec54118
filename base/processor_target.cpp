// What the program's own flags let the compiler use: see processor.h. Constants alone; nothing here is executed.
#include "base/processor.h"
#include "base/processor_features.h"

namespace dither {

// The text of a macro that is not defined is its name.
#define DITHER_TEXT(macro) #macro
#define DITHER_DEFINED(name, macro, ...) (DITHER_TEXT(macro)[0] != '_'),

const bool kProcessorTarget[] = {DITHER_PROCESSOR_FEATURES(DITHER_DEFINED) false};

}  // namespace dither
