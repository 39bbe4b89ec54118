// Every status is looked at and named; EINTR is no failure anywhere.
#include "src/parallel/sockets.h"

#include <fmt/format.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "base/error.h"

namespace dither::star {
namespace {

constexpr double kLongestWait = 86400 * 365;  // seconds; beyond it the clock's integer could overflow
constexpr int kBacklog = 4096;                // the kernel cuts it to net.core.somaxconn
constexpr int kSpareDescriptors = 64;         // beside the sockets: files, libraries, devices

// Keepalive finds a node that lost power while nothing is sent: 10 s of silence, then six questions, 5 s apart.
constexpr int kKeepIdleSeconds = 10, kKeepIntervalSeconds = 5, kKeepCount = 6;

[[noreturn]] void fail_with(const std::string& what) {
  const int error = errno;
  throw Error(fmt::format("{} failed: {}", what, std::strerror(error)));
}

void set_option(int socket, int level, int option, int value, const char* name) {
  if (setsockopt(socket, level, option, &value, sizeof value) != 0) fail_with(fmt::format("setsockopt({})", name));
}

void set_options(const Descriptor& connection) {
  const int socket = connection.number();
  set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY");
  set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE");
  set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, kKeepIdleSeconds, "TCP_KEEPIDLE");
  set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, kKeepIntervalSeconds, "TCP_KEEPINTVL");
  set_option(socket, IPPROTO_TCP, TCP_KEEPCNT, kKeepCount, "TCP_KEEPCNT");
}

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

/// What a host's name stands for; empty, with `why_not` said, where it stands for nothing.
Addresses resolve(const std::string& host, int port, int family, bool to_listen, std::string& why_not) {
  addrinfo hints = {};
  hints.ai_family = family;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (to_listen ? AI_PASSIVE : 0);
  addrinfo* list = nullptr;
  const int status = getaddrinfo(host.empty() ? nullptr : host.c_str(), std::to_string(port).c_str(), &hints, &list);
  if (status == 0) return {list, &freeaddrinfo};
  why_not = fmt::format("getaddrinfo({}) failed: {}", host,
                        status == EAI_SYSTEM ? std::strerror(errno) : gai_strerror(status));
  return {nullptr, &freeaddrinfo};
}

bool names_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0;
}

/// Reachable from elsewhere: no loopback, and no link-local address, which needs an interface beside it.
bool is_reachable(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    const auto* four = reinterpret_cast<const sockaddr_in*>(address);
    return (ntohl(four->sin_addr.s_addr) >> 24) != 127;
  }
  if (address->sa_family != AF_INET6) return false;
  const auto* six = reinterpret_cast<const sockaddr_in6*>(address);
  return !IN6_IS_ADDR_LOOPBACK(&six->sin6_addr) && !IN6_IS_ADDR_LINKLOCAL(&six->sin6_addr);
}

std::string numeric(const sockaddr* address) {
  char host[NI_MAXHOST];
  const socklen_t size = address->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  const int status = getnameinfo(address, size, host, sizeof host, nullptr, 0, NI_NUMERICHOST);
  if (status != 0) throw Error(fmt::format("getnameinfo failed: {}", gai_strerror(status)));
  return host;
}

/// Listens on one address; a closed descriptor, errno saying why, where that fails.
Descriptor try_listen(const addrinfo& at) {
  Descriptor listener(socket(at.ai_family, at.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, at.ai_protocol));
  if (!listener.is_open()) return {};
  const int on = 1, off = 0;
  const bool good =
      setsockopt(listener.number(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
      (at.ai_family != AF_INET6 || setsockopt(listener.number(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0) &&
      bind(listener.number(), at.ai_addr, at.ai_addrlen) == 0 && listen(listener.number(), kBacklog) == 0;
  if (good) return listener;
  const int error = errno;
  listener.close();
  errno = error;
  return {};
}

/// 0, or the error of a connection attempt that has been started.
int finish_connecting(int socket, Deadline deadline) {
  std::vector<Awaited> awaited = {{socket, false, true}};
  do {
    if (deadline.passed()) return ETIMEDOUT;
    wait_for(awaited, deadline);
  } while (!awaited[0].ready);
  int error = 0;
  socklen_t size = sizeof error;
  if (getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
  return error;
}

}  // namespace

Deadline Deadline::in(double seconds) {
  const std::chrono::duration<double> wait(std::min(seconds, kLongestWait));
  return Deadline(Clock::now() + std::chrono::duration_cast<Clock::duration>(wait));
}

double Deadline::seconds_left() const {
  if (moment_ == Clock::time_point::max()) return kLongestWait;
  return std::max(0.0, seconds_between(Clock::now(), moment_));
}

Deadline Deadline::or_sooner(double seconds) const {
  return Deadline(std::min(moment_, Deadline::in(seconds).moment_));
}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this == &other) return *this;
  close();
  number_ = other.release();
  return *this;
}

void Descriptor::close() {
  if (number_ >= 0) ::close(number_);  // a socket's close reports nothing that anybody could act on
  number_ = -1;
}

int Descriptor::release() { return std::exchange(number_, -1); }

std::optional<Address> parse_address(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return std::nullopt;
  Address address{text.substr(0, colon), 0};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, address.port);
  if (error != std::errc() || stop != end || address.port < 1 || address.port > 65535) return std::nullopt;
  if (address.host.front() == '[') {
    if (address.host.size() < 3 || address.host.back() != ']') return std::nullopt;
    address.host = address.host.substr(1, address.host.size() - 2);
  } else if (address.host.find(':') != std::string::npos) {
    return std::nullopt;  // an IPv6 address without brackets: its end and the port's beginning cannot be told apart
  }
  return address;
}

std::string to_string(const Address& address) {
  const bool six = address.host.find(':') != std::string::npos;
  return fmt::format("{}{}{}:{}", six ? "[" : "", address.host, six ? "]" : "", address.port);
}

std::string host_name() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0) fail_with("gethostname");
  return name;
}

std::string reachable_host() {
  std::string why_not;
  const Addresses list = resolve(host_name(), 0, AF_UNSPEC, false, why_not);
  for (const addrinfo* a = list.get(); a != nullptr; a = a->ai_next) {
    if (is_reachable(a->ai_addr)) return numeric(a->ai_addr);
  }
  // Some systems give their own name a loopback address, some containers none: then the interfaces say.
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) fail_with("getifaddrs");
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> interfaces(first, &freeifaddrs);
  for (const int family : {AF_INET, AF_INET6}) {
    for (const ifaddrs* i = first; i != nullptr; i = i->ifa_next) {
      if (i->ifa_addr != nullptr && i->ifa_addr->sa_family == family && is_reachable(i->ifa_addr)) {
        return numeric(i->ifa_addr);
      }
    }
  }
  return "127.0.0.1";
}

Descriptor listen_at(const Address& at) {
  const std::string host = names_loopback(at.host) ? at.host : "";
  // Every interface: one IPv6 socket takes IPv4 too; where the kernel has no IPv6, an IPv4 socket.
  std::string why_not = "no address";
  for (const int family : {AF_INET6, AF_INET}) {
    const Addresses list = resolve(host, at.port, family, true, why_not);
    for (const addrinfo* a = list.get(); a != nullptr; a = a->ai_next) {
      Descriptor listener = try_listen(*a);
      if (listener.is_open()) return listener;
      why_not = std::strerror(errno);
    }
  }
  throw Error(fmt::format("rank 0 cannot listen on port {}: {}; DITHER_ADDRESS or MASTER_PORT can name another",
                          at.port, why_not));
}

int port_of(const Descriptor& listener) {
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  if (getsockname(listener.number(), reinterpret_cast<sockaddr*>(&address), &size) != 0) fail_with("getsockname");
  const bool six = address.ss_family == AF_INET6;
  return ntohs(six ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                   : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

Descriptor accept_from(const Descriptor& listener) {
  while (true) {
    Descriptor connection(accept4(listener.number(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connection.is_open()) {
      set_options(connection);
      return connection;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return {};
    // What befell a connection before it was taken concerns that one alone (accept(2)).
    const bool passes = errno == EINTR || errno == ECONNABORTED || errno == EPROTO || errno == ENETDOWN ||
                        errno == EHOSTDOWN || errno == EHOSTUNREACH || errno == ENETUNREACH;
    if (!passes) fail_with("accept4 (\"Too many open files\": raise ulimit -n to twice the ranks and 100)");
  }
}

Descriptor connect_to(const Address& to, Deadline deadline, std::string& why_not) {
  const Addresses list = resolve(to.host, to.port, AF_UNSPEC, false, why_not);
  for (const addrinfo* a = list.get(); a != nullptr; a = a->ai_next) {
    Descriptor connection(socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol));
    if (!connection.is_open()) fail_with("socket");
    int error = connect(connection.number(), a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
    if (error == EINPROGRESS || error == EINTR) error = finish_connecting(connection.number(), deadline);
    if (error == 0) {
      set_options(connection);
      return connection;
    }
    why_not = fmt::format("connect failed: {}", std::strerror(error));
  }
  return {};
}

void wait_for(std::vector<Awaited>& awaited, Deadline deadline) {
  std::vector<pollfd> polled;
  for (Awaited& one : awaited) {
    one.ready = false;
    polled.push_back(
        {one.descriptor, static_cast<short>((one.to_receive ? POLLIN : 0) | (one.to_send ? POLLOUT : 0)), 0});
  }
  constexpr double kLongestPoll = 3600;  // seconds; poll counts milliseconds in 32 bits
  const double seconds = std::min(deadline.seconds_left(), kLongestPoll);
  const int count = poll(polled.data(), polled.size(), static_cast<int>(std::ceil(seconds * 1000)));
  if (count < 0 && errno != EINTR) fail_with("poll");
  if (count <= 0) return;  // nobody is ready: the caller looks at its deadline and waits again
  for (size_t i = 0; i < awaited.size(); ++i) awaited[i].ready = polled[i].revents != 0;
}

void allow_descriptors(int count) {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) fail_with("getrlimit(RLIMIT_NOFILE)");
  const rlim_t wanted = std::min<rlim_t>(static_cast<rlim_t>(count) + kSpareDescriptors, limit.rlim_max);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) fail_with("setrlimit(RLIMIT_NOFILE)");
}

}  // namespace dither::star
