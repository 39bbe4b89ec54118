// SIGINT, SIGTERM and SIGUSR1 as a request: the step at hand is finished, what is due is written, the program ends with
// status 0. A second signal of the same kind kills at once, as usual. SIGUSR1 is there for launchers: mpirun passes it
// on and lets the ranks be, while it kills them two seconds after a SIGINT or SIGTERM.
#pragma once

namespace dither {

class StopSignals {
 public:
  StopSignals();   // takes over the three
  ~StopSignals();  // gives them back
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// The signal that came, or 0.
  static int received();
  /// Its name, "SIGTERM"; nullptr where none came.
  static const char* name();
};

}  // namespace dither
