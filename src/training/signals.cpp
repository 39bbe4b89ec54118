// The handlers only write to atomics without locks, which is all that one may do.

#include "src/training/signals.h"

#include <atomic>
#include <csignal>

#include "base/error.h"

namespace dither {

namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGUSR1};

// Any thread may be the one that a signal interrupts.
std::atomic<int> g_received{0};
std::atomic<bool> g_save{false};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

void remember(int signal) { g_received = signal; }
void remember_save(int) { g_save = true; }

}  // namespace

StopSignals::StopSignals(OnSignal on_signal) {
  g_received = 0;
  g_save = false;
  for (const int signal : kSignals) {
    const bool saves = signal == SIGUSR1 && on_signal == OnSignal::go_on;
    struct sigaction action {};
    action.sa_handler = saves ? remember_save : remember;
    action.sa_flags = SA_RESTART;
    if (!saves) action.sa_flags |= static_cast<int>(SA_RESETHAND);  // once: the second one has its usual effect
    sigemptyset(&action.sa_mask);
    DITHER_ASSERT(sigaction(signal, &action, nullptr) == 0);
  }
}

StopSignals::~StopSignals() {
  for (const int signal : kSignals) std::signal(signal, SIG_DFL);
}

int StopSignals::received() { return g_received; }

const char* StopSignals::name() {
  switch (received()) {
    case SIGINT:
      return "SIGINT";
    case SIGTERM:
      return "SIGTERM";
    case SIGUSR1:
      return "SIGUSR1";
    default:
      return nullptr;
  }
}

bool StopSignals::take_save_request() { return g_save.exchange(false); }

}  // namespace dither
