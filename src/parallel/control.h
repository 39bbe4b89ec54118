// What ranks say to each other beside the collectives: small messages at start and end, failures, and signs of life.
//
// A star of TCP connections, two a rank: rank 0 listens, the others connect. Over the first go messages, from the main
// thread. The second belongs to a thread of its own, the watchdog: a connection that closes is a rank that died, and a
// rank whose progress stands still for too long is one that hangs; either ends every rank, with the name of the rank to
// blame on stderr and exit status 2. A world of one opens nothing and watches nothing.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "src/parallel/rank_environment.h"

namespace dither {

class Control {
 public:
  /// Called once by every rank, in the constructor: returns what rank 0 gave to it (a broadcast through MPI).
  using Share = std::function<std::string(const std::string& of_rank_0)>;

  /// Connects the ranks; returns when all are there. Where rank 0 listens comes from environment.address, else through
  /// `share`, else through the file environment.rendezvous. Throws Error naming the ranks that did not come within
  /// `connect_seconds`. Until watch(), no message is waited for longer than that either.
  explicit Control(const RankEnvironment& environment, double connect_seconds = 120, const Share& share = {});
  /// The orderly end waits for all ranks to get there. After fail(), or while an exception passes, it only closes.
  ~Control();
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  int rank() const;
  int size() const;

  /// Every rank's text, by rank. All ranks call it.
  std::vector<std::string> all_gather(const std::string& mine);
  /// Rank 0's text. All ranks call it.
  std::string broadcast(const std::string& of_rank_0);
  void barrier();

  /// From now on the job ends when a rank dies; when one gives no sign of life for so long; and when none makes
  /// progress for so long, then by the name of who has begun the fewest phases. All ranks call it, with the same time.
  void watch(double timeout_seconds);
  /// Progress: this rank begins `name` ("step 12: backward"), which messages about a rank that hangs will cite. From
  /// any thread. Who waits for a rank that still begins phases is not ended; all ranks begin the same ones.
  void phase(const std::string& name);
  /// Progress within a phase that takes long on this rank alone: it is at work, not waiting. From any thread.
  void at_work();

  /// Tells the others that this rank ends because of `message`; they end too, with status 2, saying so. Then this rank
  /// may throw on. Safe to call twice, and when others are gone.
  void fail(const std::string& message);

 private:
  struct Star;
  std::unique_ptr<Star> star_;
};

}  // namespace dither
