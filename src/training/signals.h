// SIGINT and SIGTERM as a request: the step at hand is finished, what is due is written, the program ends with status
// 0. A second signal of the same kind kills at once, as usual.
#pragma once

namespace dither {

class StopSignals {
 public:
  StopSignals();   // takes over SIGINT and SIGTERM
  ~StopSignals();  // gives them back
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// The signal that came, or 0.
  static int received();
};

}  // namespace dither
