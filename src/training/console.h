// Standard output and standard error, which may go away: `| head`, Ctrl-C to `| tee`, a terminal that is closed. What
// cannot be shown is lost, and nothing else is.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace dither {

/// From now on a reader that has gone away ends nothing: SIGPIPE is ignored. For commands whose work is not their
/// output.
void survive_lost_readers();

/// Writes the text at once, behind what the stream holds. Returns "" or why it could not be written. Waits for a reader
/// that is slow, but not once a request to stop has come (StopSignals).
std::string write_console(std::FILE* out, std::string_view text);

}  // namespace dither
