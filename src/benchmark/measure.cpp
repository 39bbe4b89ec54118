// Copies of a case taken in turn, and samples of their calls.
#include "src/benchmark/measure.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/error.h"

namespace dither {

namespace {

constexpr double kSampleSeconds = 1e-3;  // a hundred times what waiting for a GPU costs
constexpr int64_t kMostCopies = 4096;
constexpr size_t kFewest = 5, kMost = 200;  // samples

/// The same call on several copies of its tensors.
class Copies {
 public:
  Copies(Backend& backend, const Case& c, const Effort& effort) : backend_(backend) {
    CaseMemory counted;
    c.make(counted);
    const int64_t each = counted.bytes();
    const int64_t wanted = std::clamp<int64_t>((effort.memory_bytes + each - 1) / each, 1, kMostCopies);
    const int64_t free = backend.free_bytes();
    const int64_t count = free < 0 ? wanted : std::clamp<int64_t>(free / 2 / each, 1, wanted);
    memory_ = static_cast<char*>(backend.allocate(count * each));
    CaseMemory filled(memory_, backend);
    calls_.push_back(c.make(filled));
    DITHER_ASSERT(filled.bytes() == counted.bytes());
    for (int64_t i = 1; i < count; ++i) {
      char* place = memory_ + i * each;
      backend.copy({place, DType::fp32}, View{memory_, DType::fp32}, each / size_of(DType::fp32), backend.stream());
      CaseMemory copied(place);
      calls_.push_back(c.make(copied));
    }
    backend.synchronize(backend.stream());
  }
  ~Copies() { backend_.free(memory_); }
  Copies(const Copies&) = delete;
  Copies& operator=(const Copies&) = delete;

  /// Calls on the next copies, and waits for them.
  double seconds(int64_t calls) {
    const Stream stream = backend_.stream();
    return seconds_of([&] {
      for (int64_t i = 0; i < calls; ++i) calls_[next_++ % calls_.size()](backend_, stream);
      backend_.synchronize(stream);
    });
  }

 private:
  Backend& backend_;
  char* memory_;
  std::vector<Call> calls_;
  size_t next_ = 0;
};

}  // namespace

OperationFigures measure(TimedBackend& backend, const Case& c, const Ceilings& ceilings, const Effort& effort) {
  Copies copies(backend, c, effort);
  backend.start(ceilings);
  copies.seconds(1);  // the first call: libraries choose and prepare their products
  const Parts parts = backend.stop();
  DITHER_ASSERT(parts.size() == 1 && parts.count(c.operation) == 1);
  const Part& part = parts.at(c.operation);

  const double once = copies.seconds(1);
  const auto calls = static_cast<int64_t>(std::clamp(std::ceil(kSampleSeconds / once), 1.0, 1000.0));
  std::vector<double> samples;
  double spent = 0;
  while (samples.size() < kFewest || (spent < effort.case_seconds && samples.size() < kMost)) {
    const double seconds = copies.seconds(calls);
    spent += seconds;
    samples.push_back(seconds / static_cast<double>(calls));
  }
  return {.operation = c.operation,
          .shape = c.shape,
          .timing = timing_of(samples),
          .bytes = part.bytes,
          .flop = part.flop,
          .floor_seconds = part.floor_seconds,
          .bound_by_product = ceilings.bound_by_product(part.bytes, part.flop)};
}

}  // namespace dither
