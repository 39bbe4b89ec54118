// For fuzzers, which learn of a finding by a signal: another end of the process after a broken DITHER_ASSERT.
#pragma once

namespace dither {

/// From now on a broken assertion calls `end` (std::abort) when its message is printed, instead of exiting.
void end_assertions_by(void (*end)());

}  // namespace dither
