// What a study says while its runs go on: on a terminal a table that is redrawn in place, elsewhere one plain line
// where a run starts and where it ends.
//
//   quick: 3 of 8 runs ended, 2 at work with 1 thread each    1m10s, ETA 1m54s
//   run               state               step    loss   valid.  tok/s
//   bf16,seed=1       completed        180/180  2.2875   2.2601  12,310
//   bf16,seed=2       running           96/180  2.5113   2.6120  12,274
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "src/comparison/scheduler.h"

namespace dither {

class LiveTable {
 public:
  /// Draws on `out`, in place if it is a terminal. The size of the terminal is looked at anew each time.
  explicit LiveTable(std::FILE* out);

  /// A StudyObserver. Redraws a few times a second, a last time with all runs; says starts and ends at once.
  void show(const StudyProgress& progress);

 private:
  void say_changes(const StudyProgress& progress);
  void redraw(const StudyProgress& progress, bool last);

  std::FILE* out_;
  bool terminal_;
  std::vector<Phase> said_;   // of each run, when a line was last said of it
  int drawn_ = 0;             // lines on the terminal that the next drawing replaces
  double drawn_seconds_ = 0;  // when
};

/// The table's lines, at most `height` and each at most `width` characters. Where the runs do not fit, those that are
/// running or have failed stay, and a last line counts the others.
std::vector<std::string> table_lines(const StudyProgress& progress, int width, int height);

/// "completed", "running", "waiting", "completed earlier", ...
std::string state_text(const RunStatus& status);

}  // namespace dither
