// A backend around another that times each operation while asked to, by waiting for it before the next one is given.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "kernels/forwarding_backend.h"
#include "src/benchmark/ceilings.h"

namespace dither {

/// All calls of one operation.
struct Part {
  int64_t calls = 0;
  double seconds = 0;
  int64_t bytes = 0;
  double flop = 0;
  double floor_seconds = 0;  // each call's, added up
};
using Parts = std::map<std::string, Part>;  // by the operation's name in backend.h

class TimedBackend final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  /// From now on operations are waited for and timed; nothing is replayed.
  void start(const Ceilings& ceilings);
  /// What happened since then. From now on operations pass as if this backend were not there.
  Parts stop();

  void repeat(uint64_t key, Stream stream, const std::function<void()>& work) override;

 private:
  void around(const Work& work, Stream stream, const std::function<void()>& run) override;
  int64_t elements_of(const Work& work, Stream stream);

  bool timing_ = false;
  Ceilings ceilings_{};
  Parts parts_;
  std::map<const Segment*, int64_t> elements_;  // of lists of segments seen since start()
};

}  // namespace dither
