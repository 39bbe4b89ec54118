#include "base/stack.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sys/resource.h>

#include "base/error.h"

namespace dither {

void prepare_stacks() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur < kStackBytes) {
    const rlim_t before = limit.rlim_cur;
    limit.rlim_cur = kStackBytes;
    if (limit.rlim_max < kStackBytes || setrlimit(RLIMIT_STACK, &limit) != 0) {
      throw Error(fmt::format("the stack may have {} KiB, needs at least {} KiB\n       cure: ulimit -s {} (or more)",
                              before >> 10, kStackBytes >> 10, kStackBytes >> 10));
    }
  }
  if (default_stack_bytes() >= kStackBytes) return;
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return;
  if (pthread_attr_setstacksize(&attributes, kStackBytes) == 0) pthread_setattr_default_np(&attributes);
  pthread_attr_destroy(&attributes);
}

size_t default_stack_bytes() {
  pthread_attr_t attributes;
  size_t bytes = 0;
  if (pthread_getattr_default_np(&attributes) != 0) return 0;
  pthread_attr_getstacksize(&attributes, &bytes);
  pthread_attr_destroy(&attributes);
  return bytes;
}

}  // namespace dither
