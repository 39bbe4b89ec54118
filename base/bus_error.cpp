// Between the signal and the end only what a signal handler may call: open, read, write, _exit.
#include "base/bus_error.h"

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstring>

namespace dither {

namespace {

void say(const char* text, size_t length) {
  if (write(STDERR_FILENO, text, length) < 0) return;  // nobody is left to tell
}
void say(const char* text) { say(text, std::strlen(text)); }

/// Reads a number of hexadecimal digits and moves behind it.
uintptr_t hexadecimal(const char*& text) {
  uintptr_t value = 0;
  for (;; ++text) {
    if (*text >= '0' && *text <= '9') {
      value = value * 16 + static_cast<uintptr_t>(*text - '0');
    } else if (*text >= 'a' && *text <= 'f') {
      value = value * 16 + static_cast<uintptr_t>(*text - 'a' + 10);
    } else {
      return value;
    }
  }
}

/// Says the file of a line of /proc/self/maps, "begin-end permissions offset device inode path", if `address` is there.
bool say_if_within(const char* line, uintptr_t address) {
  const uintptr_t begin = hexadecimal(line);
  if (*line != '-') return false;
  const uintptr_t end = hexadecimal(++line);
  const char* path = std::strchr(line, '/');
  if (address < begin || address >= end || path == nullptr) return false;
  say(path);
  return true;
}

void say_file_at(uintptr_t address) {
  const int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  char line[4200];  // a path has up to 4,096 bytes
  size_t length = 0;
  char byte = 0;
  while (maps >= 0 && read(maps, &byte, 1) == 1) {
    if (byte != '\n') {
      if (length + 1 < sizeof line) line[length++] = byte;
      continue;
    }
    line[length] = '\0';
    length = 0;
    if (say_if_within(line, address)) return;
  }
  say("memory that is mapped");
}

void on_bus_error(int /*signal*/, siginfo_t* info, void* /*context*/) {
  say("error: ");
  say_file_at(reinterpret_cast<uintptr_t>(info->si_addr));
  say(": could not be read where it is mapped into memory (SIGBUS): it was shortened while it was in use, its disk "
      "failed, or shared memory is full\n       cure: restore the file; nothing else is lost\n");
  _exit(2);
}

}  // namespace

void report_bus_errors() {
  struct sigaction action = {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace dither
