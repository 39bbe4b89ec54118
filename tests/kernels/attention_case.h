// A case of attention for the tests: sizes, the tensors that they ask for, and the operations over them.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/operations/attention.h"
#include "tests/catch.h"
#include "tests/kernels/tensors.h"

namespace dither {

struct AttentionShape {
  int64_t B, T;
  int H, Hkv, D;
  int64_t row() const { return int64_t{H + 2 * Hkv} * D; }
  int64_t queries() const { return B * T * H * D; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(D)); }
};

/// What attention reads, random, and what it writes, poisoned.
struct AttentionTensors {
  TestTensor qkv, out, lse, d_out, d_qkv;

  AttentionTensors(const AttentionShape& s, DType type, double deviation = 1)
      : qkv(normal_tensor(type, s.B * s.T * s.row(), 1, deviation)),
        out(type, s.queries()),
        lse(DType::fp32, s.B * s.H * s.T),
        d_out(normal_tensor(type, s.queries(), 2)),
        d_qkv(type, s.B * s.T * s.row()) {}
  bool guards_intact() const { return out.guard_intact() && lse.guard_intact() && d_qkv.guard_intact(); }
};

inline AttentionForward forward_of(const AttentionShape& s, AttentionTensors& t) {
  return {.out = t.out,
          .lse = t.lse.fp32(),
          .qkv = t.qkv,
          .B = s.B,
          .T = s.T,
          .H = s.H,
          .Hkv = s.Hkv,
          .D = s.D,
          .scale = s.scale()};
}

inline AttentionBackward backward_of(const AttentionShape& s, AttentionTensors& t) {
  return {.d_qkv = t.d_qkv,
          .d_out = t.d_out,
          .out = t.out,
          .qkv = t.qkv,
          .lse = t.lse.fp32(),
          .B = s.B,
          .T = s.T,
          .H = s.H,
          .Hkv = s.Hkv,
          .D = s.D,
          .scale = s.scale(),
          .workspace = nullptr};
}

/// backward(operation), with a workspace of the size that it asks for.
template <class Backward>
void with_workspace(const AttentionShape& s, AttentionTensors& t, const Backward& backward) {
  AttentionBackward op = backward_of(s, t);
  TestTensor workspace(DType::fp32, op.workspace_bytes() / 4);
  op.workspace = workspace.fp32();
  backward(op);
  REQUIRE(workspace.guard_intact());
}

}  // namespace dither
