// The second stream, on which collectives run beside the computation, and when one waits for the other.
//
// Work given to the lane begins when all that the first stream was given before is done. The first stream goes on and
// joins the lane where it needs a result. What is joined is everything given so far, so a result that is not needed yet
// is better given after the join.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace dither {

class Lane {
 public:
  /// beside: false where there is nothing to run beside, one rank alone: the lane is the first stream then.
  Lane(Backend& backend, bool beside) : backend_(backend), beside_(beside) {}

  Stream stream() const { return beside_ ? backend_.second_stream() : backend_.stream(); }
  /// Call before giving work to stream(). Returns its place, for join().
  int64_t give() {
    if (beside_) backend_.order(backend_.stream(), stream());
    return ++given_;
  }
  /// The first stream waits for all that was given.
  void join() { join(given_); }
  /// The same, unless it has waited for the work at that place already.
  void join(int64_t place) {
    if (place <= joined_) return;
    if (beside_) backend_.order(stream(), backend_.stream());
    joined_ = given_;
  }

 private:
  Backend& backend_;
  const bool beside_;
  int64_t given_ = 0, joined_ = 0;
};

}  // namespace dither
