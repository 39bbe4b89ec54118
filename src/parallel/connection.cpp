// Messages over a socket that never blocks: two buffers, and loops that take what the kernel gives.
#include "src/parallel/connection.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <vector>

namespace dither::star {
namespace {

static_assert(std::endian::native == std::endian::little, "messages are written as they lie in memory");

constexpr uint32_t kMagic = 0x31537444;             // "DtS1"
constexpr uint64_t kLongestText = 1ull << 30;       // far beyond any config or manifest: a length above it is no length
constexpr uint64_t kLongestOfStranger = 64 * 1024;  // a message of the meeting: names, a reason
constexpr size_t kHeaderBytes = 16;
constexpr size_t kPortion = 64 * 1024;  // bytes that one recv asks for

/// Whether a socket's error says that the other side is gone; throws for one that says that this program is wrong.
bool is_gone(int error, const char* operation) {
  if (error == EBADF || error == EFAULT || error == EINVAL || error == ENOTSOCK) {
    throw Error(fmt::format("{} failed: {}", operation, std::strerror(error)));
  }
  return true;  // ECONNRESET, EPIPE, ETIMEDOUT, EHOSTUNREACH, ...: whatever the network says, nobody is there
}

}  // namespace

bool Connection::take_in() {
  if (!is_open()) return false;
  while (true) {
    const size_t before = inbox_.size();
    // What is whole is taken out by next(), what is longer than allowed is refused there: the rest can wait.
    if (before > kHeaderBytes + (trusted_ ? kLongestText : kLongestOfStranger)) return true;
    inbox_.resize(before + kPortion);
    const ssize_t count = recv(socket_.number(), inbox_.data() + before, kPortion, 0);
    const int error = errno;
    inbox_.resize(before + static_cast<size_t>(std::max<ssize_t>(count, 0)));
    if (count > 0) continue;
    if (count == 0) return false;
    if (error == EAGAIN || error == EWOULDBLOCK) return true;
    if (error != EINTR) return !is_gone(error, "recv");
  }
}

std::optional<Message> Connection::next() {
  if (inbox_.size() < sizeof kMagic) return std::nullopt;
  Unpacker header(inbox_);
  if (header.value<uint32_t>() != kMagic) throw Error("bytes arrived that no rank sends");
  if (inbox_.size() < kHeaderBytes) return std::nullopt;
  Message message{static_cast<MessageType>(header.value<uint32_t>()), ""};
  const uint64_t length = header.value<uint64_t>();
  const uint64_t longest = trusted_ ? kLongestText : kLongestOfStranger;
  if (message.type > MessageType::goodbye || length > longest) throw Error("bytes arrived that no rank sends");
  if (inbox_.size() - kHeaderBytes < length) return std::nullopt;
  message.text = inbox_.substr(kHeaderBytes, length);
  inbox_.erase(0, kHeaderBytes + length);
  return message;
}

void Connection::post(MessageType type, std::string_view text) {
  if (text.size() > kLongestText) {
    throw Error(fmt::format("a message between ranks has {} bytes; at most {} are allowed", text.size(), kLongestText));
  }
  pack(outbox_, kMagic);
  pack(outbox_, type);
  pack_text(outbox_, text);
}

bool Connection::flush() {
  while (is_open() && !outbox_.empty()) {
    const ssize_t count = send(socket_.number(), outbox_.data() + sent_, outbox_.size() - sent_, MSG_NOSIGNAL);
    if (count < 0) {
      const int error = errno;
      if (error == EAGAIN || error == EWOULDBLOCK) return true;
      if (error != EINTR) return !is_gone(error, "send");
      continue;
    }
    sent_ += static_cast<size_t>(count);
    if (sent_ < outbox_.size()) continue;
    outbox_.clear();
    sent_ = 0;
  }
  return is_open();
}

bool Connection::flush(Deadline deadline) {
  while (flush()) {
    if (outbox_.empty()) return true;
    if (deadline.passed()) return false;
    std::vector<Awaited> one = {{socket_.number(), false, true}};
    wait_for(one, deadline);
  }
  return false;
}

}  // namespace dither::star
