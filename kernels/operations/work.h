// What an operation costs at least, whoever computes it: what `dither bench` divides its time by.
//
//   bytes()  must move: each input is read once and each output written once, so what is changed in place counts twice.
//            Workspaces and whatever an implementation reads again do not count.
//   flop()   of matrix products, two for a multiplication with its addition. Arithmetic on single elements is not
//            counted: it is far from any ceiling.
// Both are members of the operation's arguments, defined in work.cpp.
#pragma once

#include "kernels/operations/update.h"  // Segment

namespace dither {

struct Work {
  const char* operation;  // its name in backend.h
  int64_t bytes;          // of one element of the segments, where there are any
  double flop;
  const Segment* segments = nullptr;  // in backend memory; null: bytes is all
  int64_t segment_count = 0;
};

template <class Operation>
Work work_of(const char* name, const Operation& op) {
  if constexpr (requires { op.segments; }) {
    return {name, op.bytes(1), 0, op.segments, op.segment_count};
  } else if constexpr (requires { op.flop(); }) {
    return {name, op.bytes(), op.flop()};
  } else {
    return {name, op.bytes(), 0};
  }
}

}  // namespace dither
