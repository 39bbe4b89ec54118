#include "src/training/last_save.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "src/training/signals.h"

namespace dither {

namespace {

using Clock = std::chrono::steady_clock;

constexpr double kLongestPause = 10, kTick = 0.1;  // seconds

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/// On rank 0: waits before another attempt; whether there is to be one.
bool await_space(const LastSave& save, Clock::time_point begin, bool stopping, Control& control) {
  // A run that has come to its end hears of the first signal here, one that a signal has ended of another.
  const auto asked_to_end = [stopping] { return stopping ? StopSignals::repeated() : StopSignals::received() != 0; };
  const double pause = std::min(kLongestPause, save.retry_seconds / 10);
  if (seconds_since(begin) + pause > save.retry_seconds) return false;
  save.warn(
      fmt::format("the disk is full: what could not be saved is tried again in {:.0f} s, for {:.0f} s in all "
                  "(checkpoint.retry_seconds)\n       cure: free some space; {} signal ends the wait",
                  pause, save.retry_seconds, stopping ? "another" : "a"));
  for (const Clock::time_point now = Clock::now(); seconds_since(now) < pause && !asked_to_end();) {
    control.at_work();  // the others wait for this rank
    std::this_thread::sleep_for(std::chrono::duration<double>(std::min(kTick, pause)));
  }
  return !asked_to_end();
}

}  // namespace

Unsaved save_last(const LastSave& save, Control& control) {
  const Clock::time_point begin = Clock::now();
  const bool stopping = StopSignals::received() != 0;
  SaveAttempt state, weights;
  std::string verdict = fmt::format("{:d}{:d}", !!save.state, !!save.weights);  // rank 0's: what is to be tried
  for (int attempts = 1; verdict != "00"; ++attempts) {
    if (verdict[0] == '1') state = save.state();
    if (verdict[1] == '1') weights = save.weights();
    const bool failed = !state.failure.empty() || !weights.failure.empty();
    const bool full = (!state.failure.empty() && state.disk_full) || (!weights.failure.empty() && weights.disk_full);
    bool again = false;
    if (control.rank() == 0) again = failed && (full ? await_space(save, begin, stopping, control) : attempts == 1);
    verdict =
        control.broadcast(again ? fmt::format("{:d}{:d}", !state.failure.empty(), !weights.failure.empty()) : "00");
  }
  return {state.failure, weights.failure};
}

}  // namespace dither
