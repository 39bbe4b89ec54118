// Stacks as large as this program needs, whatever `ulimit -s` was when it was started.
#pragma once

#include <cstddef>

namespace dither {

constexpr size_t kStackBytes =
    size_t{1} << 20;  // of a thread: far above what was measured (160 KiB, oneDNN's compiler)

/// At the start of the program: raises the limits of the main thread's stack and of those of threads to come where they
/// are below kStackBytes. Throws Error where that is not allowed.
void prepare_stacks();

/// The stack of a thread that is started without saying more.
size_t default_stack_bytes();

}  // namespace dither
