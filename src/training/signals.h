// SIGINT, SIGTERM and SIGUSR1 as requests. SIGINT and SIGTERM: the step at hand is finished, what is due is written,
// the program ends with status 0; a second signal of the same kind kills at once, as usual. SIGUSR1 does the same under
// checkpoint.on_signal "exit"; it is there for launchers: mpirun passes it on and lets the ranks be, while it kills
// them two seconds after a SIGINT or SIGTERM. Under "continue" it asks for a checkpoint, as often as it comes.
#pragma once

#include "src/config/config.h"  // OnSignal

namespace dither {

class StopSignals {
 public:
  explicit StopSignals(OnSignal on_signal = OnSignal::exit);  // takes over the three
  ~StopSignals();                                             // gives them back
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// The signal that asked to end, or 0.
  static int received();
  /// Its name, "SIGTERM"; nullptr where none came.
  static const char* name();
  /// Whether SIGUSR1 has come since the last call; always false under OnSignal::exit. Two that come between two calls
  /// are one request: the checkpoint that follows is later than both.
  static bool take_save_request();
};

}  // namespace dither
