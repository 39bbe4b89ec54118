#include "src/training/signals.h"

#include <csignal>

#include "base/error.h"

namespace dither {

namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGUSR1};

volatile std::sig_atomic_t g_received = 0;

void remember(int signal) { g_received = signal; }

}  // namespace

StopSignals::StopSignals() {
  g_received = 0;
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;  // once: the second one has its usual effect
  sigemptyset(&action.sa_mask);
  for (const int signal : kSignals) DITHER_ASSERT(sigaction(signal, &action, nullptr) == 0);
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

}  // namespace dither
