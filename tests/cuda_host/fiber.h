// A fiber: a function with a stack of its own that runs until it gives control back (Boost.Context's jumps, and the
// sanitizers told of each).
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace dither::cuda_host {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Takes `body` for its next run; it must not be running, and `body` must not throw.
  void start(std::function<void()> body);
  /// Goes on with the body until it waits or ends. Called from outside; false once the body has ended.
  bool resume();
  /// Gives control back to whoever called resume(). Called from the body.
  void wait();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dither::cuda_host
