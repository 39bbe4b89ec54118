#include "tests/cuda_host/fiber.h"

#include <boost/context/detail/fcontext.hpp>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define DITHER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DITHER_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define DITHER_TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define DITHER_TSAN 1
#endif
#ifdef DITHER_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef DITHER_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace dither::cuda_host {

namespace context = boost::context::detail;

namespace {

constexpr size_t kStackBytes = 128 * 1024;  // a kernel's locals, several times over under AddressSanitizer

}  // namespace

// The two sides of a jump announce it to the sanitizers: the one that leaves says where it goes, the one that arrives
// that it is there.
struct Fiber::State {
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  context::fcontext_t inside = nullptr;   // where the body goes on
  context::fcontext_t outside = nullptr;  // who resumed it
  std::function<void()> body;
  bool ended = true;
#ifdef DITHER_ASAN
  void* fake_inside = nullptr;
  void* fake_outside = nullptr;
  const void* outer_stack = nullptr;
  size_t outer_bytes = 0;
#endif
#ifdef DITHER_TSAN
  void* own = __tsan_create_fiber(0);
  void* resumer = nullptr;
  ~State() { __tsan_destroy_fiber(own); }
#endif

  static void enter(context::transfer_t from) {
    State& s = *static_cast<State*>(from.data);
    s.arrive_inside(from.fctx);
    for (;;) {
      s.body();
      s.ended = true;
      s.leave();
    }
  }

  void arrive_inside(context::fcontext_t from) {
#ifdef DITHER_ASAN
    __sanitizer_finish_switch_fiber(fake_inside, &outer_stack, &outer_bytes);
#endif
    outside = from;
  }

  void leave() {
#ifdef DITHER_ASAN
    __sanitizer_start_switch_fiber(&fake_inside, outer_stack, outer_bytes);
#endif
#ifdef DITHER_TSAN
    __tsan_switch_to_fiber(resumer, 0);
#endif
    arrive_inside(context::jump_fcontext(outside, this).fctx);
  }
};

Fiber::Fiber() : state_(std::make_unique<State>()) {}
Fiber::~Fiber() = default;

void Fiber::start(std::function<void()> body) {
  State& s = *state_;
  s.body = std::move(body);
  s.ended = false;
  if (s.inside == nullptr) s.inside = context::make_fcontext(s.stack.get() + kStackBytes, kStackBytes, &State::enter);
}

bool Fiber::resume() {
  State& s = *state_;
#ifdef DITHER_ASAN
  __sanitizer_start_switch_fiber(&s.fake_outside, s.stack.get(), kStackBytes);
#endif
#ifdef DITHER_TSAN
  s.resumer = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(s.own, 0);
#endif
  s.inside = context::jump_fcontext(s.inside, &s).fctx;
#ifdef DITHER_ASAN
  __sanitizer_finish_switch_fiber(s.fake_outside, nullptr, nullptr);
#endif
  return !s.ended;
}

void Fiber::wait() { state_->leave(); }

}  // namespace dither::cuda_host
