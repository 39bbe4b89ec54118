// The two ways to fail: Error for what a user or the world can cause, DITHER_ASSERT for what only a wrong program can.
#pragma once

#include <stdexcept>
#include <string>

namespace dither {

/// What a user or the world can cause: bad input, a missing file, a full disk. The message says what, where, what was
/// found, what is allowed and how to cure it; `main` prints it behind "error: " and exits with status 2.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What `main` puts before an error where several processes speak, "rank 3: "; "" at first.
void set_error_origin(const std::string& origin);
const std::string& error_origin();

/// The program's exit status after a mistake of its own.
constexpr int kInternalErrorStatus = 3;

/// Prints "internal error: " with the assertion and its place, and ends the process with kInternalErrorStatus. From any
/// thread.
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);

}  // namespace dither

/// What only a wrong program can break; no input reaches it. Stays on in every build: its cost is outside inner loops.
#define DITHER_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::dither::assertion_failed(#condition, __FILE__, __LINE__))
