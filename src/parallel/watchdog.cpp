// The watchdog's thread, and what the main thread does in its place before it runs.
#include "src/parallel/watchdog.h"

#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "base/error.h"

namespace dither::star {
namespace {

constexpr double kPeriodSeconds = 1;     // between heartbeats; less where the timeout is short:
constexpr double kPeriodsInTimeout = 4;  // so that a late heartbeat is no silence
constexpr double kSilentPeriods = 3;     // without a heartbeat: it has stopped, not only its main thread
constexpr double kMissedPeriods = 3;     // a pause of this thread: then the whole machine or job stood
constexpr double kTellSeconds = 1;       // at most, until peers have heard that the job fails
constexpr double kEndSeconds = 0.5;      // at most, until peers have heard why rank 0 ends
constexpr double kGoodbyeSeconds = 1;    // at most, until the others have closed in the orderly end
constexpr double kAwaitEndSeconds = 5;   // far more than a watchdog needs to see a connection close
constexpr unsigned kLastSeconds = 5;     // for printing, where nobody reads; then SIGALRM ends the process
constexpr int kStatus = 2;               // the exit status of errors

void write_error(std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(STDERR_FILENO, text.data(), text.size());
    if (count < 0 && errno != EINTR) return;  // no stderr: the status alone tells
    if (count > 0) text.remove_prefix(static_cast<size_t>(count));
  }
}

/// Runs `start` with all signals blocked, so that the thread it makes gets none: they are the main thread's.
template <class Start>
void without_signals(const Start& start) {
  sigset_t all, before;
  sigfillset(&all);
  int error = pthread_sigmask(SIG_SETMASK, &all, &before);
  if (error == 0) {
    start();
    error = pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  if (error != 0) throw Error(fmt::format("pthread_sigmask failed: {}", std::strerror(error)));
}

}  // namespace

Watchdog::Watchdog(int rank, const std::string& name, std::vector<Member> peers) : rank_(rank) {
  const Clock::time_point now = Clock::now();
  for (Member& member : peers) {
    const std::string peer_name = member.name;
    peers_.push_back({std::move(member), {peer_name}, now, now});
  }
  self_ = {{rank, name, {}}, {name}, now, now};
}

void Watchdog::start(double timeout_seconds) {
  DITHER_ASSERT(!running() && timeout_seconds > 0);
  timeout_ = timeout_seconds;
  period_ = std::min(kPeriodSeconds, timeout_seconds / kPeriodsInTimeout);
  wake_ = Descriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_.is_open()) throw Error(fmt::format("eventfd failed: {}", std::strerror(errno)));
  const Clock::time_point now = Clock::now();
  for (Peer& peer : peers_) peer.heard = peer.changed = now;
  self_.heard = self_.changed = now;
  without_signals([&] { thread_ = std::thread([this] { run(); }); });
}

void Watchdog::phase(const std::string& name) {
  const std::lock_guard lock(mutex_);
  phase_ = name;
  ++progress_;
}

void Watchdog::at_work() {
  const std::lock_guard lock(mutex_);
  ++work_;
}

void Watchdog::give(Order order) {
  order_ = order;
  const uint64_t one = 1;
  const ssize_t count = ::write(wake_.number(), &one, sizeof one);
  // EAGAIN: the counter is full, so the thread is being woken anyway.
  if (count < 0 && errno != EAGAIN) throw Error(fmt::format("write(eventfd) failed: {}", std::strerror(errno)));
}

void Watchdog::fail(const std::string& message) {
  std::unique_lock lock(mutex_);
  if (!failure_.empty()) return;
  failure_ = fmt::format("rank {} failed: {}", rank_, message);
  if (!wake_.is_open()) {  // not started
    tell(MessageType::ending, failure_);
    return linger(kTellSeconds);
  }
  give(Order::fail);
  over_changed_.wait_for(lock, std::chrono::duration<double>(2 * kTellSeconds), [&] { return over_; });
}

std::vector<Awaited> Watchdog::awaited() const {
  std::vector<Awaited> awaited;
  if (running()) return awaited;
  for (const Peer& peer : peers_) awaited.push_back(peer.member.line.awaited());
  return awaited;
}

void Watchdog::look() {
  if (running()) return;
  for (Peer& peer : peers_) {
    const Ending ending = take_in(peer);
    if (ending.reason.empty()) continue;
    tell(MessageType::ending, ending.reason);
    throw Error(ending.reason);
  }
}

void Watchdog::await_end() const {
  if (running()) std::this_thread::sleep_for(std::chrono::duration<double>(kAwaitEndSeconds));
}

void Watchdog::all_is_done() {
  const std::lock_guard lock(mutex_);
  if (running()) give(Order::done);
}

void Watchdog::stop() {
  if (!running()) return;
  {
    const std::lock_guard lock(mutex_);
    if (order_ == Order::none) give(Order::stop);
  }
  thread_.join();
}

void Watchdog::run() {
  try {
    watch_peers();
  } catch (const Error& error) {
    end_process({error.what(), true});
  }
  const std::lock_guard lock(mutex_);
  over_ = true;
  over_changed_.notify_all();
}

Watchdog::Order Watchdog::order() {
  const std::lock_guard lock(mutex_);
  return order_;
}

void Watchdog::watch_peers() {
  Clock::time_point last = Clock::now(), last_beat = last;
  update_books(last);
  beat();
  while (true) {
    std::vector<Awaited> awaited = {{wake_.number()}};
    for (const Peer& peer : peers_) awaited.push_back(peer.member.line.awaited());
    wait_for(awaited, Deadline::in(period_ - seconds_between(last_beat, Clock::now())));
    const Clock::time_point now = Clock::now();
    if (seconds_between(last, now) > kMissedPeriods * period_) {
      // This thread did not run: the machine slept, or all ranks were stopped. Nobody is blamed for that time.
      for (Peer& peer : peers_) peer.heard += now - last, peer.changed += now - last;
      self_.changed += now - last;
    }
    last = now;
    switch (order()) {
      case Order::none:
        break;
      case Order::stop:
        return;
      case Order::fail:
        tell(MessageType::ending, failure_);
        return linger(kTellSeconds);
      case Order::done:
        tell(MessageType::goodbye, "");
        return linger(kGoodbyeSeconds);
    }
    for (size_t i = 0; i < peers_.size(); ++i) {
      if (!awaited[1 + i].ready) continue;
      const Ending ending = take_in(peers_[i]);
      // A peer that has closed because all is done is no failure, whichever of the two is heard first.
      if (!ending.reason.empty() && order() != Order::done) end_process(ending);
      if (peers_[i].ended) return;  // rank 0 has said goodbye
    }
    if (seconds_between(last_beat, now) < period_) continue;
    last_beat = now;
    update_books(now);
    beat();
    judge(now);
  }
}

/// What a peer has sent. The ending that it tells, or its own: its connection closed.
Watchdog::Ending Watchdog::take_in(Peer& peer) {
  const bool there = peer.member.line.take_in();
  while (const std::optional<Message> message = peer.member.line.next()) {
    if (message->type == MessageType::ending) return {message->text, false};
    if (message->type == MessageType::goodbye) peer.ended = true;
    if (message->type != MessageType::heartbeat) continue;
    Unpacker heartbeat(message->text);
    peer.heard = Clock::now();
    const int64_t progress = heartbeat.value<int64_t>(), work = heartbeat.value<int64_t>();
    if (progress != peer.signs.progress || work != peer.signs.work) peer.changed = peer.heard;
    peer.signs.progress = progress;
    peer.signs.work = work;
    peer.signs.phase = heartbeat.text();
  }
  if (there || peer.ended) return {};
  return {peer.member.name + " is gone" + in_phase(peer.signs.phase, " while in "), true};
}

void Watchdog::update_books(Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  self_.heard = now;
  if (progress_ != self_.signs.progress || work_ != self_.signs.work) self_.changed = now;
  self_.signs.progress = progress_;
  self_.signs.work = work_;
  self_.signs.phase = phase_;
}

void Watchdog::beat() {
  std::string text;
  pack(text, self_.signs.progress);
  pack(text, self_.signs.work);
  pack_text(text, self_.signs.phase);
  for (Peer& peer : peers_) {
    // To a peer that takes nothing no more is said: it would pile up. That a peer is gone, take_in() sees.
    if (!peer.member.line.has_unsent()) peer.member.line.post(MessageType::heartbeat, text);
    peer.member.line.flush();
  }
}

void Watchdog::judge(Clock::time_point now) {
  std::vector<Signs> ranks;
  if (rank_ == 0) ranks.push_back(self_.signs);
  if (rank_ == 0) ranks.back().still = seconds_between(self_.changed, now);
  for (const Peer& peer : peers_) {
    ranks.push_back(peer.signs);
    ranks.back().silent = seconds_between(peer.heard, now);
    ranks.back().still = rank_ == 0 ? seconds_between(peer.changed, now) : 0;  // others judge rank 0's silence alone
  }
  const std::string reason = blame(ranks, timeout_, kSilentPeriods * period_);
  if (!reason.empty()) end_process({reason, true});
}

/// To all peers, as far as that goes at once.
void Watchdog::tell(MessageType type, const std::string& text) {
  for (Peer& peer : peers_) {
    peer.member.line.post(type, text);
    peer.ended = peer.ended || !peer.member.line.flush();
  }
}

/// Waits until every peer has closed or tells of the end itself, which answers an ending told.
void Watchdog::linger(double seconds) {
  const Deadline deadline = Deadline::in(seconds);
  while (!deadline.passed()) {
    std::vector<Awaited> awaited;
    std::vector<Peer*> there;
    for (Peer& peer : peers_) {
      if (peer.ended) continue;
      awaited.push_back(peer.member.line.awaited());
      there.push_back(&peer);
    }
    if (there.empty()) return;
    wait_for(awaited, deadline);
    for (size_t i = 0; i < there.size(); ++i) {
      if (!awaited[i].ready) continue;
      const Ending ending = take_in(*there[i]);
      there[i]->ended = there[i]->ended || !ending.reason.empty() || !there[i]->member.line.flush();
    }
  }
}

void Watchdog::end_process(const Ending& ending) {
  alarm(kLastSeconds);
  const bool found_here = rank_ == 0 && ending.own;
  write_error(fmt::format("rank {}: error: {}{}\n", rank_, found_here ? "" : "ending because ", ending.reason));
  tell(MessageType::ending, ending.reason);
  if (rank_ == 0) linger(kEndSeconds);
  // What waits in stdout is worth a try, but not the wait for a main thread that hangs while it holds it.
  if (ftrylockfile(stdout) == 0) std::fflush(stdout);
  _exit(kStatus);
}

}  // namespace dither::star
