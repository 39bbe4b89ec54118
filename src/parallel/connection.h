// A connection of the control star (control.h): whole messages over TCP, sent and taken without ever blocking.
//
// A message on the wire, integers little-endian:
//   magic u32 | type u32 | length of the text u64 | text
// The magic stands in every message, so a stranger (a port scanner, an HTTP client) is known by its first bytes.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/error.h"
#include "src/parallel/sockets.h"

namespace dither::star {

enum class MessageType : uint32_t {
  // Meeting (meeting.h)
  hello,      // to rank 0: who I am
  welcome,    // from rank 0: who I am
  elsewhere,  // from rank 0: this is another job; look again where yours is
  refused,    // from rank 0: the text says why the job does not begin
  begin,      // from rank 0: all are there
  // Messages of the main thread (control.cpp)
  gather,     // to rank 0: my text
  gathered,   // from rank 0: all texts
  broadcast,  // from rank 0: its text
  barrier,    // to rank 0: I am there
  release,    // from rank 0: all are
  // Signs of life (watchdog.h)
  heartbeat,  // my progress and phase
  ending,     // the job ends; the text says why
  goodbye,    // from rank 0: all is done, closing is no failure
};

struct Message {
  MessageType type;
  std::string text;
};

class Connection {
 public:
  Connection() = default;
  explicit Connection(Descriptor socket) : socket_(std::move(socket)) {}

  bool is_open() const { return socket_.is_open(); }
  /// From now on messages may be as long as ranks send them: who is at the other end is known to be one. Until then
  /// they are as short as those of the meeting (64 KiB), and no more memory is taken for them.
  void trust() { trusted_ = true; }
  void close() { socket_.close(); }
  Awaited awaited() const { return {socket_.number(), true, !outbox_.empty()}; }

  /// Takes in what has arrived. False: the other side is gone; messages that it had sent before may still be there.
  bool take_in();
  /// The next whole message that was taken in. Throws Error for bytes that no rank sends.
  std::optional<Message> next();

  /// Puts a message behind those that wait to be sent. Throws Error for one beyond all reason (1 GiB).
  void post(MessageType type, std::string_view text);
  bool has_unsent() const { return !outbox_.empty(); }
  /// Sends what goes at once. False: the other side is gone.
  bool flush();
  /// Sends all that was posted; false when the other side is gone or the deadline passed.
  bool flush(Deadline deadline);

 private:
  Descriptor socket_;
  std::string inbox_, outbox_;
  size_t sent_ = 0;  // of outbox_
  bool trusted_ = false;
};

/// Appends a value's bytes, or a text with its length.
template <class T>
void pack(std::string& to, T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  to.append(reinterpret_cast<const char*>(&value), sizeof value);
}
inline void pack_text(std::string& to, std::string_view text) {
  pack(to, static_cast<uint64_t>(text.size()));
  to.append(text);
}

/// Reads them back in the same order. Throws Error where the text ends too early.
class Unpacker {
 public:
  explicit Unpacker(std::string_view from) : rest_(from) {}

  template <class T>
  T value() {
    T value;
    std::memcpy(&value, bytes(sizeof value).data(), sizeof value);
    return value;
  }
  std::string text() {
    const uint64_t size = value<uint64_t>();
    return std::string(bytes(size));
  }

 private:
  std::string_view bytes(uint64_t size) {
    if (size > rest_.size()) throw Error("a message between ranks is too short: are all ranks the same program?");
    const std::string_view found = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return found;
  }
  std::string_view rest_;
};

}  // namespace dither::star
