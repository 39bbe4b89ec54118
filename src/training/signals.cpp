// The handlers use atomics without locks and functions that POSIX allows in handlers, nothing else.

#include "src/training/signals.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <ctime>

#include "base/error.h"

namespace dither {

namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};
constexpr int64_t kBurst = 1'000'000'000;  // nanoseconds

// Any thread may be the one that a signal interrupts.
std::atomic<int> g_received{0};
std::atomic<int64_t> g_first{0}, g_first_interrupt{0};  // when they came, CLOCK_MONOTONIC in ns; 0: not yet
std::atomic<bool> g_save{false}, g_repeated{false};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free &&
              std::atomic<bool>::is_always_lock_free);

int64_t now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

/// Notes the first time; whether this one is later than the first's burst.
bool is_later(std::atomic<int64_t>& first, int64_t time) {
  int64_t none = 0;
  return !first.compare_exchange_strong(none, time) && time - none > kBurst;
}

void remember(int signal) {
  const int error = errno;
  const int64_t time = now();
  if (signal == SIGINT && is_later(g_first_interrupt, time)) {
    std::signal(SIGINT, SIG_DFL);
    raise(SIGINT);  // delivered when this handler returns
  }
  if (is_later(g_first, time)) g_repeated = true;
  int none = 0;
  g_received.compare_exchange_strong(none, signal);
  errno = error;
}

void remember_save(int) { g_save = true; }

/// What is done on a signal: SIG_DFL, SIG_IGN or a handler.
auto action_on(int signal) {
  struct sigaction action {};
  DITHER_ASSERT(sigaction(signal, nullptr, &action) == 0);
  return action.sa_handler;
}

}  // namespace

StopSignals::StopSignals(OnSignal on_signal) {
  g_received = 0;
  g_first = 0;
  g_first_interrupt = 0;
  g_repeated = false;
  g_save = false;
  for (const int signal : kSignals) {
    if (signal == SIGHUP && action_on(signal) == SIG_IGN) continue;
    struct sigaction action {};
    action.sa_handler = signal == SIGUSR1 && on_signal == OnSignal::go_on ? remember_save : remember;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    DITHER_ASSERT(sigaction(signal, &action, nullptr) == 0);
  }
}

StopSignals::~StopSignals() {
  if (received() != 0) return;
  for (const int signal : kSignals) {
    if (action_on(signal) != SIG_IGN) std::signal(signal, SIG_DFL);
  }
}

int StopSignals::received() { return g_received; }

const char* StopSignals::name() {
  switch (received()) {
    case SIGINT:
      return "SIGINT";
    case SIGTERM:
      return "SIGTERM";
    case SIGHUP:
      return "SIGHUP";
    case SIGUSR1:
      return "SIGUSR1";
    default:
      return nullptr;
  }
}

bool StopSignals::repeated() { return g_repeated; }

bool StopSignals::take_save_request() { return g_save.exchange(false); }

}  // namespace dither
