// Rotary positions with optional QK-norm, and causal attention with grouped KV heads.
//
// The projections lie packed: qkv[n] = [H query heads | Hkv key heads | Hkv value heads] x D. Query head h reads KV
// head h / (H / Hkv). Rotation is by halves: (a, b) = (x[i], x[i + D/2]) -> (a cos - b sin, b cos + a sin), i < D/2.
#pragma once

#include "kernels/view.h"

namespace dither {

/// Query and key heads: norm (if gains are given), then rotation (if a table is given); value heads are copied.
///   s = 1 / sqrt(mean_d(x^2) + eps),  x <- x * s * gain;  both steps in FP32, rounded once at the end
struct RotaryForward {
  View out;              // [N,H+2Hkv,D] out  may be qkv when there is no QK-norm
  float* rstd;           // [N,H+Hkv]    out  s, kept for backward; null without QK-norm
  ConstView qkv;         // [N,H+2Hkv,D]      the type of out
  const float* cos_sin;  // [T,D/2,2]         computed by the host in FP64; null: no rotation
  ConstView query_gain;  // [D]               QK-norm; absent: none
  ConstView key_gain;    // [D]
  int64_t N, T;          // N is a multiple of T
  int H, Hkv, D;
  float epsilon;
  void check() const;
  int64_t bytes() const;  // work.h
};

/// The transposed rotation, then the norm's Jacobian. Gain sums over blocks of kRows tokens first, then over blocks.
struct RotaryBackward {
  View d_qkv;            // [N,H+2Hkv,D] out  may be d_out
  View d_query_gain;     // [D]          out  BF16 or FP32; absent without QK-norm
  View d_key_gain;       // [D]          out
  ConstView d_out;       // [N,H+2Hkv,D]
  ConstView qkv;         // [N,H+2Hkv,D]      input of forward; only read with QK-norm
  const float* rstd;     // [N,H+Hkv]
  const float* cos_sin;  // [T,D/2,2]
  ConstView query_gain, key_gain;
  int64_t N, T;
  int H, Hkv, D;
  void* workspace;  // workspace_bytes(): FP32 [ceil(N/kRows), 2, D]; not read without QK-norm
  int64_t workspace_bytes() const { return query_gain ? (N + kRows - 1) / kRows * 2 * D * 4 : 0; }
  void check() const;
  int64_t bytes() const;  // work.h
  static constexpr int64_t kRows = 32;
};

/// out[b,t,h] = sum_{u<=t} softmax_u(scale * q[b,t,h] . k[b,u,h']) v[b,u,h'];  lse = log of the softmax's denominator.
/// Computed tile by tile: no [T,T] matrix exists.
struct AttentionForward {
  View out;       // [B,T,H,D] out  BF16 or FP32
  float* lse;     // [B,H,T]   out  kept for backward
  ConstView qkv;  // [B,T,H+2Hkv,D] rotated; the type of out
  int64_t B, T;
  int H, Hkv, D;  // D: 32, 48, 64, 80, 96, 112 or 128
  float scale;    // 1 / sqrt(D)
  void check() const;
  int64_t bytes() const;  // work.h
  double flop() const;
};

struct AttentionBackward {
  View d_qkv;        // [B,T,H+2Hkv,D] out
  ConstView d_out;   // [B,T,H,D]
  ConstView out;     // [B,T,H,D]
  ConstView qkv;     // [B,T,H+2Hkv,D]
  const float* lse;  // [B,H,T]
  int64_t B, T;
  int H, Hkv, D;
  float scale;
  void* workspace;  // workspace_bytes(), each backend's own; the CPU: FP32 [B,H,T], row sums of d_out * out, then
                    // [B,H,T',D], the gradient of q
  int64_t workspace_bytes() const { return B * H * (T + (T + 3) / 4 * 4 * D) * 4; }  // T' = T rounded up to 4
  void check() const;
  int64_t bytes() const;  // work.h
  double flop() const;
};

}  // namespace dither
