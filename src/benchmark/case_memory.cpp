// Places and random values for the tensors of a case.
#include "src/benchmark/case_memory.h"

#include <random>

#include "src/benchmark/ceilings.h"  // fill_with_random()

namespace dither {

namespace {

char g_nothing;  // what a counted view points to

}  // namespace

void* CaseMemory::take(int64_t bytes) {
  void* place = arena_.take(bytes);
  return memory_ != nullptr ? place : &g_nothing;
}

View CaseMemory::random(int64_t elements, DType type, double mean, double deviation) {
  const View view = zeros(elements, type);
  if (backend_ != nullptr) fill_with_random(*backend_, view, elements, mean, deviation);
  return view;
}

int32_t* CaseMemory::random_below(int64_t elements, int64_t limit) {
  std::mt19937 generator(1);
  std::uniform_int_distribution<int32_t> draw(0, static_cast<int32_t>(limit - 1));
  std::vector<int32_t> values(static_cast<size_t>(elements));
  if (backend_ != nullptr) {
    for (int32_t& value : values) value = draw(generator);
  }
  return from_host(values);
}

}  // namespace dither
