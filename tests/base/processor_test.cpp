// The check of the processor. That it runs before everything else, on a lesser processor, is seen under an emulator:
// "base.on a lesser processor", where one is installed.
#include "base/processor.h"

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tests/catch.h"

namespace dither {
namespace {

std::string error_of(const std::vector<ProcessorFeature>& features, size_t capacity = 1024) {
  std::vector<char> text(capacity, 'x');
  if (!processor_error(features.data(), static_cast<int>(features.size()), "native", text.data(), capacity)) return "";
  return text.data();
}

}  // namespace

// Catches: a refusal for what the program does not use, one feature named where two are missing, a text past its end.
TEST_CASE("a processor is refused for what the program uses and it has not, each by name") {
  CHECK(error_of({}).empty());
  CHECK(error_of({{"avx2", true, true}, {"avx512f", false, false}, {"gfni", false, true}}).empty());
  const std::string text = error_of({{"avx2", true, true}, {"avx512f", true, false}, {"avx512_bf16", true, false}});
  CHECK_THAT(text,
             Catch::Matchers::StartsWith("error: this program was built for another processor (DITHER_ARCH=native)"));
  CHECK_THAT(text, Catch::Matchers::ContainsSubstring("has no avx512f avx512_bf16\n"));
  CHECK_THAT(text, Catch::Matchers::ContainsSubstring("-DDITHER_ARCH="));
  CHECK(error_of({{"avx512f", true, false}}, 20) == "error: this program");
}

#ifdef __x86_64__
// Catches: a cure that this processor does not know either.
TEST_CASE("the portable build that is advised runs on this processor") {
  CHECK_THAT(error_of({{"avx2", true, false}, {"fma", true, true}, {"bmi2", true, true}}),
             Catch::Matchers::EndsWith("-DDITHER_ARCH=x86-64\n"));
  CHECK_THAT(error_of({{"avx512f", true, false}, {"avx2", true, true}, {"fma", true, true}, {"bmi2", true, true}}),
             Catch::Matchers::EndsWith("-DDITHER_ARCH=x86-64-v3\n"));
}
#endif

// Catches: a wrong leaf, register or bit; a table that says what another compilation may use.
TEST_CASE("the features of this processor are those that the system names, and the program runs on it") {
  std::string words, line;
  std::ifstream file("/proc/cpuinfo");
  while (words.empty() && std::getline(file, line)) {
    if (line.rfind("flags", 0) == 0 || line.rfind("Features", 0) == 0) words = line.substr(line.find(':') + 1) + " ";
  }
  std::vector<ProcessorFeature> features(kMostProcessorFeatures);
  features.resize(static_cast<size_t>(processor_features(features.data())));
  for (const ProcessorFeature& feature : features) {
    INFO(feature.name);
    const std::string name = feature.name;
    // Kernels of today do not name the newest ones.
    const bool is_new =
        name == "avx_vnni_int8" || name == "avx_ne_convert" || name == "avx_vnni_int16" || name == "apx";
    if (!words.empty() && !is_new) CHECK(feature.there == (words.find(" " + name + " ") != std::string::npos));
#ifdef __AVX512F__
    if (name == "avx512f") CHECK(feature.used);
#endif
#if defined(__x86_64__) && !defined(__AVX2__)
    if (name == "avx2") CHECK(!feature.used);
#endif
#ifdef __AVX2__
    if (name == "avx2") CHECK(feature.used);
#endif
  }
  CHECK(error_of(features).empty());
}

}  // namespace dither
