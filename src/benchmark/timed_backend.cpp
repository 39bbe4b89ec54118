// Seconds, bytes, FLOP and floors of operations by name.
#include "src/benchmark/timed_backend.h"

#include <utility>  // exchange
#include <vector>

#include "src/benchmark/timing.h"

namespace dither {

void TimedBackend::start(const Ceilings& ceilings) {
  inner().synchronize(inner().stream());
  timing_ = true;
  ceilings_ = ceilings;
  parts_.clear();
  elements_.clear();
}

Parts TimedBackend::stop() {
  timing_ = false;
  return std::exchange(parts_, {});
}

void TimedBackend::repeat(uint64_t key, Stream stream, const std::function<void()>& work) {
  if (timing_) {
    work();
  } else {
    inner().repeat(key, stream, work);
  }
}

void TimedBackend::around(const Work& work, Stream stream, const std::function<void()>& run) {
  if (!timing_) return run();
  const int64_t bytes = work.segments == nullptr ? work.bytes : work.bytes * elements_of(work, stream);
  const double seconds = seconds_of([&] {
    run();
    inner().synchronize(stream);
  });
  Part& part = parts_[work.operation];
  ++part.calls;
  part.seconds += seconds;
  part.bytes += bytes;
  part.flop += work.flop;
  part.floor_seconds += ceilings_.floor_seconds(bytes, work.flop);
}

int64_t TimedBackend::elements_of(const Work& work, Stream stream) {
  const auto [found, is_new] = elements_.try_emplace(work.segments, 0);
  if (!is_new) return found->second;
  std::vector<Segment> list(static_cast<size_t>(work.segment_count));
  inner().copy_to_host(list.data(), work.segments, work.segment_count * static_cast<int64_t>(sizeof(Segment)), stream);
  inner().synchronize(stream);
  for (const Segment& segment : list) found->second += segment.count;
  return found->second;
}

}  // namespace dither
