// What rotary positions and attention demand, on every backend.
#include "kernels/operations/attention.h"

#include "kernels/operations/demand.h"

namespace dither {

namespace {

void demand_heads(const char* op, int H, int Hkv, int D) {
  demand(Hkv >= 1, op, "Hkv", Hkv, "at least 1");
  demand(H >= Hkv && H % Hkv == 0, op, "H", H, "a multiple of Hkv");
  demand(D >= 32 && D <= 128 && D % 16 == 0, op, "D", D, "32, 48, 64, 80, 96, 112 or 128");
}

/// The packed projections have this many values a token.
int64_t row_of(int H, int Hkv, int D) { return int64_t{H + 2 * Hkv} * D; }

void demand_tokens(const char* op, int64_t N, int64_t T) {
  demand(N >= 1, op, "N", N, "at least 1");
  demand(T >= 1 && N % T == 0, op, "T", T, "a divisor of N");
}

void demand_batch(const char* op, int64_t B, int64_t T) {
  demand(B >= 1, op, "B", B, "at least 1");
  demand(T >= 1, op, "T", T, "at least 1");
}

}  // namespace

void RotaryForward::check() const {
  const char* op = "rotary_forward";
  demand_tokens(op, N, T);
  demand_heads(op, H, Hkv, D);
  demand_float(op, "qkv", qkv);
  demand_type(op, "out", out, qkv.type);
  const int64_t elements = N * row_of(H, Hkv, D);
  if (!query_gain) {
    demand(!key_gain, op, "the number of key_gain tensors", 1, "0 without query_gain");
    return demand_same_or_apart(op, "the distance in bytes from out to qkv", out, qkv, elements);
  }
  demand_float(op, "query_gain", query_gain);
  demand_type(op, "key_gain", key_gain, query_gain.type);
  demand(rstd != nullptr, op, "rstd", 0, "memory for N * (H + Hkv) values with QK-norm");
  demand_positive(op, "epsilon", epsilon);
  demand_apart(op, "with QK-norm the distance in bytes from out to qkv", out, elements, qkv, elements);
}

void RotaryBackward::check() const {
  const char* op = "rotary_backward";
  demand_tokens(op, N, T);
  demand_heads(op, H, Hkv, D);
  demand_float(op, "d_out", d_out);
  demand_type(op, "d_qkv", d_qkv, d_out.type);
  const int64_t elements = N * row_of(H, Hkv, D);
  demand_same_or_apart(op, "the distance in bytes from d_qkv to d_out", d_qkv, d_out, elements);
  if (!query_gain) return demand(!key_gain, op, "the number of key_gain tensors", 1, "0 without query_gain");
  demand_float(op, "query_gain", query_gain);
  demand_type(op, "key_gain", key_gain, query_gain.type);
  demand_float(op, "d_query_gain", d_query_gain);
  demand_type(op, "d_key_gain", d_key_gain, d_query_gain.type);
  demand_type(op, "qkv", qkv, d_out.type);
  demand(rstd != nullptr, op, "rstd", 0, "the values that forward kept");
  demand(workspace != nullptr, op, "workspace", 0, "memory of workspace_bytes()");
  demand_apart(op, "the distance in bytes from d_qkv to qkv", d_qkv, elements, qkv, elements);
}

void AttentionForward::check() const {
  const char* op = "attention_forward";
  demand_batch(op, B, T);
  demand_heads(op, H, Hkv, D);
  demand_positive(op, "scale", scale);
  demand_float(op, "qkv", qkv);
  demand_type(op, "out", out, qkv.type);
  demand(lse != nullptr, op, "lse", 0, "memory for B * H * T values");
  demand_apart(op, "the distance in bytes from out to qkv", out, B * T * H * D, qkv, B * T * row_of(H, Hkv, D));
}

void AttentionBackward::check() const {
  const char* op = "attention_backward";
  demand_batch(op, B, T);
  demand_heads(op, H, Hkv, D);
  demand_positive(op, "scale", scale);
  demand_float(op, "qkv", qkv);
  demand_type(op, "out", out, qkv.type);
  demand_type(op, "d_out", d_out, qkv.type);
  demand_type(op, "d_qkv", d_qkv, qkv.type);
  demand(lse != nullptr, op, "lse", 0, "the values that forward kept");
  demand(workspace != nullptr, op, "workspace", 0, "memory of workspace_bytes()");
  const int64_t packed = B * T * row_of(H, Hkv, D), heads = B * T * H * D;
  demand_apart(op, "the distance in bytes from d_qkv to qkv", d_qkv, packed, qkv, packed);
  demand_apart(op, "the distance in bytes from d_qkv to out", d_qkv, packed, out, heads);
  demand_apart(op, "the distance in bytes from d_qkv to d_out", d_qkv, packed, d_out, heads);
}

}  // namespace dither
