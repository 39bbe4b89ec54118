#include "src/training/console.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>  // PIPE_BUF
#include <csignal>
#include <cstring>

#include "src/training/signals.h"

namespace dither {

namespace {

constexpr int kTickMs = 100;  // between two looks at StopSignals

}  // namespace

void survive_lost_readers() { std::signal(SIGPIPE, SIG_IGN); }

std::string write_console(std::FILE* out, std::string_view text) {
  std::fflush(out);
  const int descriptor = fileno(out);
  while (!text.empty()) {
    pollfd ready{descriptor, POLLOUT, 0};
    const int found = poll(&ready, 1, kTickMs);
    if (found == 0 || (found < 0 && errno == EINTR)) {  // a signal ends poll(), and a write would wait in its place
      if (StopSignals::received() != 0) return "its reader does not read";
      continue;
    }
    // A pipe that is ready takes so many bytes without waiting.
    const ssize_t written = write(descriptor, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
    if (written > 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (written == 0 || (errno != EINTR && errno != EAGAIN)) {
      return written == 0 ? "the system takes no bytes" : std::strerror(errno);
    }
  }
  return "";
}

}  // namespace dither
