// Which rank to blame when a job stands still.
//
// One rank that hangs soon makes all stand still: the others wait for it in a collective. And a rank that waits for a
// slow one stands still although nothing is wrong. So the job hangs when NO rank has made progress for the timeout, or
// when a rank has given no sign of life at all for so long (its process is stopped, or its node is lost). To blame is,
// in this order: who gives no signs of life, for the longest time; else who has begun the fewest phases, since the
// others have gone on to the collective in which they wait. Phases are begun by all ranks alike, so their numbers
// compare.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dither::star {

/// What rank 0 knows of a rank.
struct Signs {
  std::string name = {};   // "rank 2 (node7, pid 123)"
  std::string phase = {};  // "step 12: backward"; "": none yet
  int64_t progress = 0;    // phases begun
  double still = 0;        // seconds since it began the last, or last said to be at work
  double silent = 0;       // seconds since its last sign of life
  int64_t work = 0;        // times that it said to be at work within its phase
};

/// The sentence that ends the job; "": all is well. Silent is a rank that has said nothing for `silence` seconds.
std::string blame(const std::vector<Signs>& ranks, double timeout, double silence);

/// ", in its phase"; "" where it never had one.
std::string in_phase(const std::string& phase, const char* words);

}  // namespace dither::star
