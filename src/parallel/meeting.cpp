// Rank 0's reception and the others' way to it.
#include "src/parallel/meeting.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <thread>

#include "base/error.h"
#include "base/input_file.h"

namespace dither::star {
namespace {

constexpr uint32_t kVersion = 1;          // of all messages; raised with each change
constexpr double kAttemptSeconds = 5;     // for one connection and its answer: longer, and it was no rank 0
constexpr double kPauseSeconds = 0.05;    // between attempts
constexpr double kGraceSeconds = 2;       // by which the others wait longer than rank 0, who knows which ranks miss
constexpr double kFarewellSeconds = 1;    // for telling those who came that the job does not begin
constexpr size_t kLinesOfRank = 2;        // messages and signs
constexpr size_t kMostGuests = 32;        // connections beside those of all ranks that have not said who they are
constexpr int kNamesInMessage = 16;       // missing ranks named; more are counted
constexpr const char* kFailedMark = "!";  // before the message that rank 0 shares in place of an address

struct Place {
  uint64_t nonce = 0;
  Address address;
};

std::string to_text(const Place& place) { return fmt::format("{:016x} {}\n", place.nonce, to_string(place.address)); }

std::optional<Place> parse_place(const std::string& text) {
  constexpr size_t kDigits = 16;
  if (text.size() < kDigits + 2 || text[kDigits] != ' ' || text.back() != '\n') return std::nullopt;
  Place place;
  const auto [end, error] = std::from_chars(text.data(), text.data() + kDigits, place.nonce, 16);
  const std::optional<Address> address = parse_address(text.substr(kDigits + 1, text.size() - kDigits - 2));
  if (error != std::errc() || end != text.data() + kDigits || !address) return std::nullopt;
  place.address = *address;
  return place;
}

uint64_t draw_nonce() {
  std::random_device device;
  return (uint64_t{device()} << 32 | device()) | 1;  // never 0, which says "not told"
}

std::string name_of(int rank) { return fmt::format("rank {} ({}, pid {})", rank, host_name(), getpid()); }

/// The rendezvous file while rank 0 waits for the others.
class RendezvousFile {
 public:
  RendezvousFile(const std::string& path, const std::string& text) : path_(path) {
    const std::string beside = fmt::format("{}.{}.{}", path, host_name(), getpid());
    std::ofstream file(beside);
    file << text;
    file.close();
    if (!file || std::rename(beside.c_str(), path.c_str()) != 0) {
      const int error = errno;
      std::remove(beside.c_str());
      throw Error(
          fmt::format("rank 0 cannot write {}, where ranks meet (DITHER_RENDEZVOUS): {}", path, std::strerror(error)));
    }
  }
  ~RendezvousFile() { std::remove(path_.c_str()); }  // one that stays does no harm: its nonce is this job's alone
  RendezvousFile(const RendezvousFile&) = delete;
  RendezvousFile& operator=(const RendezvousFile&) = delete;

 private:
  std::string path_;
};

/// Rank 0's side: takes connections until two of every rank are there.
class Reception {
 public:
  /// `nonce_told`: every rank of this job knows the nonce, and one that does not is none.
  Reception(int ranks, const std::string& name, Descriptor listener, Place place, bool nonce_told)
      : ranks_(ranks), name_(name), listener_(std::move(listener)), place_(std::move(place)), nonce_told_(nonce_told) {
    messages_.resize(static_cast<size_t>(ranks));
    signs_.resize(static_cast<size_t>(ranks));
  }

  Meeting gather(double seconds) {
    try {
      const Deadline deadline = Deadline::in(seconds);
      while (!missing().empty()) {
        if (deadline.passed()) throw Error(complaint(seconds));
        serve(deadline);
      }
      for (Member& member : messages_) send(member, MessageType::begin, "", deadline.or_sooner(kAttemptSeconds));
    } catch (const Error& error) {
      for (Member& member : messages_) {
        if (member.line.is_open()) member.line.post(MessageType::refused, error.what());
      }
      const Deadline deadline = Deadline::in(kFarewellSeconds);
      for (Member& member : messages_) member.line.flush(deadline);
      throw;
    }
    Meeting meeting{name_, {}, {}};
    std::move(messages_.begin() + 1, messages_.end(), std::back_inserter(meeting.messages));
    std::move(signs_.begin() + 1, signs_.end(), std::back_inserter(meeting.signs));
    return meeting;
  }

 private:
  std::vector<int> missing() const {
    std::vector<int> ranks;
    for (int rank = 1; rank < ranks_; ++rank) {
      const auto i = static_cast<size_t>(rank);
      if (!messages_[i].line.is_open() || !signs_[i].line.is_open()) ranks.push_back(rank);
    }
    return ranks;
  }

  std::string complaint(double seconds) const {
    const std::vector<int> ranks = missing();
    std::string list;
    for (size_t i = 0; i < ranks.size() && i < kNamesInMessage; ++i)
      list += fmt::format("{}{}", i ? ", " : "", ranks[i]);
    if (ranks.size() > kNamesInMessage) list += fmt::format(" and {} more", ranks.size() - kNamesInMessage);
    return fmt::format(
        "{} {} of {} did not come to rank 0 at {} within {:g} s: start all {} ranks at the same time, and "
        "see that their nodes reach that address",
        ranks.size() == 1 ? "rank" : "ranks", list, ranks_, to_string(place_.address), seconds, ranks_);
  }

  void serve(Deadline deadline) {
    std::vector<Awaited> awaited = {{listener_.number()}};
    std::vector<Member*> there;
    for (auto* members : {&messages_, &signs_}) {
      for (Member& member : *members) {
        if (member.line.is_open()) there.push_back(&member);
      }
    }
    for (const Member* member : there) awaited.push_back(member->line.awaited());
    for (const Connection& guest : guests_) awaited.push_back(guest.awaited());
    wait_for(awaited, deadline);
    // Who has been let in says nothing until the job begins: what can be read there is its end.
    for (size_t i = 0; i < there.size(); ++i) {
      if (awaited[1 + i].ready && !there[i]->line.take_in()) throw Error(there[i]->name + " is gone");
    }
    for (size_t i = guests_.size(); i-- > 0;) {
      if (awaited[1 + there.size() + i].ready && attend(guests_[i]))
        guests_.erase(guests_.begin() + static_cast<long>(i));
    }
    while (true) {
      Descriptor socket = accept_from(listener_);
      if (!socket.is_open()) break;
      guests_.emplace_back(std::move(socket));
      // A rank says at once who it is; strangers that say nothing must not use up the descriptors.
      if (guests_.size() > kMostGuests + kLinesOfRank * static_cast<size_t>(ranks_)) guests_.erase(guests_.begin());
    }
  }

  /// Hears a guest. True: it has been let in or sent away.
  bool attend(Connection& guest) {
    try {
      const bool there = guest.take_in();
      const std::optional<Message> message = guest.next();
      if (!message) return !there;
      if (message->type == MessageType::hello) receive(guest, message->text);
    } catch (const Error&) {
      // Bytes of a stranger: that concerns no rank of this job.
    }
    return true;
  }

  void receive(Connection& guest, const std::string& text) {
    Unpacker hello(text);
    const uint32_t version = hello.value<uint32_t>();
    if (version != kVersion) {
      return answer(guest, MessageType::refused,
                    fmt::format("rank 0 speaks version {} of the messages between ranks, this rank version {}: run the "
                                "same program everywhere",
                                kVersion, version));
    }
    const uint32_t ranks = hello.value<uint32_t>(), rank = hello.value<uint32_t>(), line = hello.value<uint32_t>();
    const uint64_t nonce = hello.value<uint64_t>();
    const std::string name = hello.text();
    if (nonce != place_.nonce && (nonce != 0 || nonce_told_)) return answer(guest, MessageType::elsewhere, "");
    if (ranks != static_cast<uint32_t>(ranks_) || rank == 0 || rank >= ranks || line >= kLinesOfRank) {
      return answer(guest, MessageType::refused,
                    fmt::format("rank 0 waits for ranks 1 to {} of {}; {} says that it is one of {}", ranks_ - 1,
                                ranks_, name, ranks));
    }
    Member& member = (line == 0 ? messages_ : signs_)[rank];
    // A second process that says to be this rank; the same process only tries once more.
    for (const Member* known : {&messages_[rank], &signs_[rank]}) {
      if (known->line.is_open() && known->name != name) {
        return answer(guest, MessageType::refused,
                      fmt::format("{} is already there; {} cannot be the same rank: give "
                                  "each process a rank of its own",
                                  known->name, name));
      }
    }
    std::string welcome;
    pack(welcome, place_.nonce);
    pack_text(welcome, name_);
    answer(guest, MessageType::welcome, welcome);
    guest.trust();
    member = {static_cast<int>(rank), name, std::move(guest)};
  }

  /// Short enough for the kernel's buffer; a guest that is gone again is noticed later, or matters to nobody.
  static void answer(Connection& guest, MessageType type, const std::string& text) {
    guest.post(type, text);
    guest.flush();
  }

  static void send(Member& member, MessageType type, const std::string& text, Deadline deadline) {
    if (!member.line.is_open()) return;  // rank 0's own place
    member.line.post(type, text);
    if (!member.line.flush(deadline)) throw Error(member.name + " is gone");
  }

  int ranks_;
  std::string name_;
  Descriptor listener_;
  Place place_;
  bool nonce_told_;
  std::vector<Member> messages_, signs_;  // [ranks]; 0 stays empty
  std::vector<Connection> guests_;        // connected, not yet known
};

/// Looks where rank 0 is: a place, or nothing and `why_not`.
using Finder = std::function<std::optional<Place>(std::string& why_not)>;

/// Another rank's side.
class Visitor {
 public:
  Visitor(const RankEnvironment& environment, double seconds, Finder find)
      : environment_(environment), seconds_(seconds), find_(std::move(find)), name_(name_of(environment.rank)) {}

  Meeting join() {
    Meeting meeting{name_, {}, {}};
    meeting.messages.push_back(come(0));
    meeting.signs.push_back(come(1));
    const Message message = answer(meeting.messages[0].line, Deadline::in(seconds_ + kGraceSeconds), rank_0_);
    if (message.type == MessageType::refused) throw Error(message.text);
    if (message.type != MessageType::begin) throw Error(rank_0_ + " let this rank in and then did not begin");
    return meeting;
  }

 private:
  /// One line to rank 0: tries until the time is up.
  Member come(uint32_t line) {
    const Deadline deadline = Deadline::in(seconds_);
    std::string why_not;
    while (true) {
      const std::optional<Place> place = find_(why_not);
      std::optional<Member> member;
      if (place) member = attempt(*place, line, deadline.or_sooner(kAttemptSeconds), why_not);
      if (member) return std::move(*member);
      if (deadline.seconds_left() <= kPauseSeconds) {  // too little for an attempt, whose reason would then be that
        throw Error(fmt::format("rank {} found no rank 0{} within {:g} s: {}", environment_.rank,
                                place ? " at " + to_string(place->address) : "", seconds_, why_not));
      }
      std::this_thread::sleep_for(std::chrono::duration<double>(kPauseSeconds));
    }
  }

  std::optional<Member> attempt(const Place& place, uint32_t line, Deadline deadline, std::string& why_not) {
    Connection connection(connect_to(place.address, deadline, why_not));
    if (!connection.is_open()) return std::nullopt;
    std::string hello;
    pack(hello, kVersion);
    pack(hello, static_cast<uint32_t>(environment_.ranks));
    pack(hello, static_cast<uint32_t>(environment_.rank));
    pack(hello, line);
    pack(hello, place.nonce);
    pack_text(hello, name_);
    connection.post(MessageType::hello, hello);
    try {
      const Message message = answer(connection, deadline, "who listens there");
      if (message.type == MessageType::refused) refusal_ = message.text;
      if (message.type == MessageType::elsewhere) why_not = "the rank 0 of another job listens there";
      if (message.type == MessageType::welcome) {
        Unpacker welcome(message.text);
        const uint64_t nonce = welcome.value<uint64_t>();
        rank_0_ = welcome.text();
        connection.trust();
        if (place.nonce == 0 || nonce == place.nonce) return Member{0, rank_0_, std::move(connection)};
        why_not = "the rank 0 of another job listens there";
      }
    } catch (const Error& error) {
      why_not = error.what();  // somebody else's port, or rank 0 is about to go: look again
    }
    if (!refusal_.empty()) throw Error(refusal_);
    return std::nullopt;
  }

  /// Sends what was posted and waits for one message of `whom`.
  static Message answer(Connection& connection, Deadline deadline, const std::string& whom) {
    bool there = connection.flush(deadline);
    while (true) {
      if (std::optional<Message> message = connection.next()) return *message;
      if (!there) throw Error(whom + " is gone");
      if (deadline.passed()) throw Error(whom + " does not answer");
      std::vector<Awaited> awaited = {connection.awaited()};
      wait_for(awaited, deadline);
      there = connection.take_in();
    }
  }

  const RankEnvironment& environment_;
  double seconds_;
  Finder find_;
  std::string name_, rank_0_, refusal_;
};

/// The rendezvous file's text; "" where there is none to be read yet.
std::string content(const std::string& path) {
  constexpr InputKind kRendezvous = {"a rendezvous file", "a file", 1 << 12};
  try {
    return read_input(path, kRendezvous);
  } catch (const Error&) {
    return "";
  }
}

Address given_address(const RankEnvironment& environment) {
  if (const std::optional<Address> address = parse_address(environment.address)) return *address;
  throw Error(fmt::format("rank 0's address is \"{}\", needs host:port", environment.address));
}

/// Listens at a free port, and says where.
Descriptor listen_anywhere(const RankEnvironment& environment, Address& address) {
  const bool one_node = environment.local_ranks == environment.ranks;
  address.host = one_node ? "127.0.0.1" : reachable_host();
  Descriptor listener = listen_at({one_node ? address.host : "", 0});
  address.port = port_of(listener);
  return listener;
}

Meeting receive_others(const RankEnvironment& environment, double seconds, const Control::Share& share) {
  allow_descriptors(static_cast<int>(kLinesOfRank) * environment.ranks);
  Place place{draw_nonce(), {}};
  Descriptor listener;
  std::optional<RendezvousFile> file;
  if (!environment.address.empty()) {
    place.address = given_address(environment);
    listener = listen_at(place.address);
  } else if (share) {
    try {
      listener = listen_anywhere(environment, place.address);
    } catch (const Error& error) {
      share(kFailedMark + std::string(error.what()));  // the others wait for this call, and would for ever
      throw;
    }
    share(to_text(place));
  } else {
    listener = listen_anywhere(environment, place.address);
    file.emplace(environment.rendezvous, to_text(place));
  }
  return Reception(environment.ranks, name_of(0), std::move(listener), place, environment.address.empty())
      .gather(seconds);
}

Finder finder(const RankEnvironment& environment, const Control::Share& share) {
  if (!environment.address.empty()) {
    return [place = Place{0, given_address(environment)}](std::string&) { return std::optional<Place>(place); };
  }
  if (share) {
    const std::string text = share("");
    if (text.rfind(kFailedMark, 0) == 0) throw Error("rank 0 failed: " + text.substr(1));
    return [place = parse_place(text)](std::string& why_not) {
      why_not = "rank 0 shared no address";
      return place;
    };
  }
  return [path = environment.rendezvous](std::string& why_not) {
    why_not = path + " (DITHER_RENDEZVOUS) names no place yet; all ranks must see the same file";
    return parse_place(content(path));
  };
}

}  // namespace

Meeting meet(const RankEnvironment& environment, double seconds, const Control::Share& share) {
  if (environment.address.empty() && !share && environment.rendezvous.empty()) {
    throw Error(
        fmt::format("rank {} of {} does not know where rank 0 is: set DITHER_ADDRESS to host:port, or "
                    "DITHER_RENDEZVOUS to a file that all ranks see, or start the ranks with mpirun",
                    environment.rank, environment.ranks));
  }
  if (environment.rank != 0) return Visitor(environment, seconds, finder(environment, share)).join();
  return receive_others(environment, seconds, share);
}

}  // namespace dither::star
