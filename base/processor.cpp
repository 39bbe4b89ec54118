// The check of the processor: see processor.h. Compiled without -march= (CMakeLists.txt), so nothing here may call a
// function that a header defines: the linker might take the copy of a file that was compiled for a better processor.
#include "base/processor.h"

#include <unistd.h>

#include "base/processor_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace dither {
namespace {

#if defined(__x86_64__)

/// What the system saves of a thread's registers; 0 if it does not say.
unsigned saved_registers() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx >> 27 & 1)) return 0;  // OSXSAVE
  asm volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return eax;
}

bool is_there(unsigned leaf, unsigned subleaf, int which, int bit, unsigned registers) {
  unsigned found[4] = {};
  if (!__get_cpuid_count(leaf, subleaf, &found[0], &found[1], &found[2], &found[3])) return false;
  return (found[which] >> bit & 1) != 0 && (saved_registers() & registers) == registers;
}

#elif defined(__aarch64__)

bool is_there(unsigned long entry, int bit) { return (getauxval(entry) >> bit & 1) != 0; }

#endif

/// A text in a buffer; what does not fit is cut.
struct Text {
  char* begin;
  size_t capacity, size = 0;
  void add(const char* more) {
    while (*more != 0 && size + 1 < capacity) begin[size++] = *more++;
    begin[size] = 0;
  }
};

#if defined(__x86_64__)

bool has(const ProcessorFeature* features, int count, const char* name) {
  for (int i = 0; i < count; ++i) {
    if (__builtin_strcmp(features[i].name, name) == 0) return features[i].there;
  }
  return false;
}

/// The best value of -march= that this processor and those of most others know.
const char* portable_arch(const ProcessorFeature* features, int count) {
  const bool v3 = has(features, count, "avx2") && has(features, count, "fma") && has(features, count, "bmi2");
  return v3 ? "x86-64-v3" : "x86-64";
}

#else

const char* portable_arch(const ProcessorFeature*, int) { return "armv8-a"; }

#endif

}  // namespace

int processor_features([[maybe_unused]] ProcessorFeature* features) {
  int count = 0;
#define DITHER_ADD(name, macro, ...)                                        \
  features[count] = {name, kProcessorTarget[count], is_there(__VA_ARGS__)}; \
  ++count;
  DITHER_PROCESSOR_FEATURES(DITHER_ADD)
  return count;
}

bool processor_error(const ProcessorFeature* features, int count, const char* arch, char* text, size_t capacity) {
  Text error{text, capacity};
  for (int i = 0; i < count; ++i) {
    if (!features[i].used || features[i].there) continue;
    if (error.size == 0) {
      error.add("error: this program was built for another processor (DITHER_ARCH=");
      error.add(arch);
      error.add("): this one, or its system, has no");
    }
    error.add(" ");
    error.add(features[i].name);
  }
  if (error.size == 0) return false;
  error.add("\n       cures: build it on this machine; or, for this and most others, with -DDITHER_ARCH=");
  error.add(portable_arch(features, count));
  error.add("\n");
  return true;
}

}  // namespace dither

// Before all static initialisers of the program: theirs have no priority, and 101 is the first that a program may have.
extern "C" [[gnu::constructor(101)]] void dither_check_processor() {
  dither::ProcessorFeature features[dither::kMostProcessorFeatures];
  char text[1024];
  if (!dither::processor_error(features, dither::processor_features(features), DITHER_ARCH, text, sizeof text)) return;
  if (write(STDERR_FILENO, text, __builtin_strlen(text)) < 0) _exit(2);
  _exit(2);
}
