// Signals as requests. SIGINT, SIGTERM and SIGHUP: the step in progress is finished, the state is saved, and the
// program ends with status 0. SIGUSR1 does the same under checkpoint.on_signal "exit"; it is there for launchers:
// mpirun passes it on and leaves the ranks alone, while it kills them two seconds after a SIGINT or SIGTERM. Under
// "continue" it asks for a checkpoint, as often as it comes. SIGHUP stays ignored where it was ignored before (nohup).
//
// Launchers send the same signal several times, to one process and to its group: what comes within a second of the
// first is the same request. After that second another Ctrl-C (SIGINT) kills. Other signals never kill: who sends them
// has SIGKILL, and a save must not be lost to a repetition; they only end a wait for a full disk (repeated()).
#pragma once

#include "src/config/config.h"  // OnSignal

namespace dither {

class StopSignals {
 public:
  explicit StopSignals(OnSignal on_signal = OnSignal::exit);  // installs the handlers
  /// Restores the default actions, unless a request to stop has come: then the program is ending, and the rest of a
  /// burst of signals must not change its status.
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// The first signal that asked to stop, or 0.
  static int received();
  /// Its name, "SIGTERM"; nullptr where none came.
  static const char* name();
  /// Whether another request to stop has come more than a second after the first.
  static bool repeated();
  /// Whether SIGUSR1 has come since the last call; always false under OnSignal::exit. Two that come between two calls
  /// are one request: the checkpoint that follows is later than both.
  static bool take_save_request();
};

}  // namespace dither
