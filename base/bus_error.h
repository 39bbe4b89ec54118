// What happens when a file that is mapped into memory becomes shorter, or its disk fails: the system sends SIGBUS to
// whoever touches the bytes.
#pragma once

namespace dither {

/// From now on SIGBUS ends the process with status 2 and an error that names the mapped file. Checkpoints and weights
/// are mapped while they are loaded; nothing has been computed by then.
void report_bus_errors();

}  // namespace dither
