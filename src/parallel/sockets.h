// TCP sockets for the control star (control.h): where rank 0 listens, how others reach it, and waiting with a deadline.
// Sockets never block, are closed on exec, send at once (TCP_NODELAY) and have keepalive on.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace dither::star {

using Clock = std::chrono::steady_clock;

inline double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

/// The moment by which something must be done.
class Deadline {
 public:
  static Deadline in(double seconds);
  static Deadline never() { return Deadline(Clock::time_point::max()); }
  bool passed() const { return Clock::now() >= moment_; }
  double seconds_left() const;  // 0 once passed
  Deadline or_sooner(double seconds) const;

 private:
  explicit Deadline(Clock::time_point moment) : moment_(moment) {}
  Clock::time_point moment_;
};

/// Owner of a file descriptor.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() { close(); }
  Descriptor(Descriptor&& other) noexcept : number_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  int number() const { return number_; }  // -1: closed
  bool is_open() const { return number_ >= 0; }
  void close();

 private:
  int release();
  int number_ = -1;
};

struct Address {
  std::string host;
  int port = 0;
};

/// "node7:29500", "10.0.0.7:29500", "[::1]:29500".
std::optional<Address> parse_address(const std::string& text);
std::string to_string(const Address& address);

/// This machine's name; and its address as other machines reach it: what its name resolves to, or an interface's.
std::string host_name();
std::string reachable_host();

/// A socket that listens: on this machine alone where `at.host` is a loopback address, else on every interface. Port 0
/// takes any that is free. Throws Error.
Descriptor listen_at(const Address& at);
int port_of(const Descriptor& listener);
/// The next connection; closed where none waits. Throws Error.
Descriptor accept_from(const Descriptor& listener);
/// A connection, or a closed one with `why_not` said.
Descriptor connect_to(const Address& to, Deadline deadline, std::string& why_not);

/// What is waited for at a descriptor.
struct Awaited {
  int descriptor;
  bool to_receive = true;
  bool to_send = false;
  bool ready = false;  // out: either can be done, or the other side is gone
};

/// Waits until one of them is ready or the deadline has passed; sets their `ready`.
void wait_for(std::vector<Awaited>& awaited, Deadline deadline);

/// Lets this process hold so many sockets, as far as the system allows.
void allow_descriptors(int count);

}  // namespace dither::star
