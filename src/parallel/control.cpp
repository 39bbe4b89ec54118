// Messages of the main thread through rank 0, and the order in which a star begins and ends.
#include "src/parallel/control.h"

#include <fmt/format.h>

#include <exception>

#include "base/error.h"
#include "src/parallel/connection.h"
#include "src/parallel/meeting.h"
#include "src/parallel/watchdog.h"

namespace dither {

using star::Awaited;
using star::Deadline;
using star::Meeting;
using star::Member;
using star::Message;
using star::MessageType;

struct Control::Star {
  Star(const RankEnvironment& environment, double connect_seconds, Meeting meeting)
      : rank(environment.rank),
        size(environment.ranks),
        patience(connect_seconds),
        name(meeting.name),
        peers(std::move(meeting.messages)),
        watchdog(rank, meeting.name, std::move(meeting.signs)) {}

  /// The deadline of a message that begins now: once watched, the watchdog is the deadline.
  Deadline deadline() const { return watchdog.running() ? Deadline::never() : Deadline::in(patience); }

  [[noreturn]] void lost(const Member& peer) {
    watchdog.look();       // it may have said why it ends
    watchdog.await_end();  // the watchdog sees it too, and ends this process with the rank's phase
    throw Error(peer.name + " is gone");
  }

  void send(Member& peer, MessageType type, const std::string& text) {
    peer.line.post(type, text);
    const Deadline until = deadline();
    if (peer.line.flush(until)) return;
    if (until.passed()) throw Error(fmt::format("{} takes no message for {:g} s", peer.name, patience));
    lost(peer);
  }

  void send_all(MessageType type, const std::string& text) {
    for (Member& peer : peers) send(peer, type, text);
  }

  /// A peer's message if it is there, of the type that this call expects.
  bool take(Member& peer, MessageType type, std::string& text) {
    std::optional<Message> message = peer.line.next();
    if (!message) return false;
    if (message->type == MessageType::refused) throw Error(message->text);
    if (message->type != type) {
      throw Error(
          fmt::format("{} calls another operation than {} (messages {} and {}): are all ranks the same program?",
                      peer.name, name, static_cast<int>(message->type), static_cast<int>(type)));
    }
    text = std::move(message->text);
    return true;
  }

  /// One message of each peer, in whatever order they come.
  std::vector<std::string> receive_all(MessageType type) {
    const Deadline until = deadline();
    std::vector<std::string> texts(peers.size());
    std::vector<char> is_there(peers.size()), is_closed(peers.size());
    while (true) {
      std::vector<size_t> missing;
      for (size_t i = 0; i < peers.size(); ++i) {
        is_there[i] = is_there[i] || take(peers[i], type, texts[i]);
        if (!is_there[i]) missing.push_back(i);
      }
      if (missing.empty()) return texts;
      watchdog.look();
      for (const size_t i : missing) {
        if (is_closed[i]) lost(peers[i]);
      }
      if (until.passed()) throw Error(fmt::format("{} says nothing for {:g} s", peers[missing[0]].name, patience));
      std::vector<Awaited> awaited;
      for (const size_t i : missing) awaited.push_back(peers[i].line.awaited());
      for (const Awaited& sign : watchdog.awaited()) awaited.push_back(sign);
      wait_for(awaited, until);
      for (size_t m = 0; m < missing.size(); ++m) {
        if (awaited[m].ready) is_closed[missing[m]] = !peers[missing[m]].line.take_in();
      }
    }
  }

  /// All ranks are there when it returns; rank 0 does `before_release` when it knows that.
  template <class Action>
  void barrier(const Action& before_release) {
    if (rank != 0) send_all(MessageType::barrier, "");
    receive_all(rank == 0 ? MessageType::barrier : MessageType::release);
    if (rank != 0) return;
    before_release();
    send_all(MessageType::release, "");
  }

  const int rank, size;
  const double patience;   // seconds; before the watchdog runs
  const std::string name;  // of this rank
  const int exceptions = std::uncaught_exceptions();
  bool failed = false;
  std::vector<Member> peers;  // on rank 0 all others, elsewhere rank 0
  star::Watchdog watchdog;
};

Control::Control(const RankEnvironment& environment, double connect_seconds, const Share& share) {
  DITHER_ASSERT(environment.ranks >= 1 && environment.rank >= 0 && environment.rank < environment.ranks);
  Meeting meeting;
  if (environment.ranks > 1) meeting = star::meet(environment, connect_seconds, share);
  star_ = std::make_unique<Star>(environment, connect_seconds, std::move(meeting));
}

Control::~Control() {
  if (size() == 1 || star_->failed || std::uncaught_exceptions() > star_->exceptions) return;
  try {
    phase("end");
    star_->barrier([&] { star_->watchdog.all_is_done(); });
    star_->watchdog.stop();
  } catch (const Error&) {
    // This rank has done its work; whoever is missing is for the others to tell.
  }
}

int Control::rank() const { return star_->rank; }

int Control::size() const { return star_->size; }

std::vector<std::string> Control::all_gather(const std::string& mine) {
  std::vector<std::string> texts = {mine};
  if (rank() == 0) {
    for (std::string& text : star_->receive_all(MessageType::gather)) texts.push_back(std::move(text));
    if (size() == 1) return texts;
    std::string all;
    for (const std::string& text : texts) star::pack_text(all, text);
    star_->send_all(MessageType::gathered, all);
    return texts;
  }
  star_->send_all(MessageType::gather, mine);
  const std::string all = star_->receive_all(MessageType::gathered)[0];
  star::Unpacker unpacker(all);
  texts.clear();
  for (int r = 0; r < size(); ++r) texts.push_back(unpacker.text());
  return texts;
}

std::string Control::broadcast(const std::string& of_rank_0) {
  if (rank() != 0) return star_->receive_all(MessageType::broadcast)[0];
  star_->send_all(MessageType::broadcast, of_rank_0);
  return of_rank_0;
}

void Control::barrier() {
  star_->barrier([] {});
}

void Control::watch(double timeout_seconds) {
  if (size() == 1) return;
  barrier();  // rank 0's signs of life begin before anybody misses them
  star_->watchdog.start(timeout_seconds);
}

void Control::phase(const std::string& name) { star_->watchdog.phase(name); }
void Control::at_work() { star_->watchdog.at_work(); }

void Control::fail(const std::string& message) {
  if (size() == 1) return;
  star_->failed = true;
  star_->watchdog.fail(message);
}

}  // namespace dither
