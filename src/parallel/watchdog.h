// The thread that notices when a rank dies or hangs, and ends this process before it waits for that rank for ever.
//
// Every rank holds one connection to rank 0 for signs of life: a heartbeat about once a second, with the number of
// phases begun and the last one's name. Rank 0 watches all and judges (blame.h); the others watch rank 0. A connection
// that closes without goodbye is a rank that died. Whoever learns that the job must end tells its peers, prints one
// line to stderr and ends the process with status 2, from the watchdog's thread: the main thread may hang in a
// collective. This is the one place besides `main` that ends the program.
//
// Before start() there is no thread: then the main thread asks look() while it waits for messages.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "src/parallel/blame.h"
#include "src/parallel/meeting.h"

namespace dither::star {

class Watchdog {
 public:
  /// `peers`: on rank 0 all others, elsewhere rank 0.
  Watchdog(int rank, const std::string& name, std::vector<Member> peers);
  ~Watchdog() { stop(); }

  /// All ranks call it at about the same time.
  void start(double timeout_seconds);
  bool running() const { return thread_.joinable(); }

  /// From any thread.
  void phase(const std::string& name);
  void at_work();
  /// Tells the peers, and waits up to a second until they know. From any thread once started, else from the main one.
  void fail(const std::string& message);

  /// What to wait for beside messages: nothing once started.
  std::vector<Awaited> awaited() const;
  /// Takes in what the peers sent before start(). Throws Error where the job ends, after telling the other peers.
  void look();
  /// After a connection closed: waits for this thread to end the process with the reason, which it is about to see too.
  void await_end() const;

  /// On rank 0, when all ranks have come to the end: from now on closing is no failure.
  void all_is_done();
  /// Ends the thread; rank 0's, after all_is_done(), once the others have gone.
  void stop();

 private:
  struct Peer {
    Member member;
    Signs signs;
    Clock::time_point heard, changed;  // the last sign of life, and the last that brought progress
    bool ended = false;                // it knows that the job ends, or is gone
  };
  /// Why the job ends.
  struct Ending {
    std::string reason;  // "rank 2 failed: ..."; "": it goes on
    bool own = false;    // found by this rank, not told by another
  };
  enum class Order { none, stop, fail, done };

  void run();
  void watch_peers();
  Order order();
  void update_books(Clock::time_point now);
  void beat();
  void judge(Clock::time_point now);
  Ending take_in(Peer& peer);
  void tell(MessageType type, const std::string& text);
  void linger(double seconds);
  void give(Order order);
  [[noreturn]] void end_process(const Ending& ending);

  const int rank_;
  std::vector<Peer> peers_;  // the thread's once started, as are:
  Peer self_;                // the same books for this rank; its line stays closed
  double timeout_ = 0, period_ = 0;
  std::thread thread_;
  Descriptor wake_;  // an eventfd: there is an order

  std::mutex mutex_;  // guards what follows
  std::condition_variable over_changed_;
  std::string phase_, failure_;
  int64_t progress_ = 0, work_ = 0;
  Order order_ = Order::none;
  bool over_ = false;  // the thread is about to return
};

}  // namespace dither::star
