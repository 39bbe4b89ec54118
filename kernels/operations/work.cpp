// What each operation must move and compute, from its arguments.
#include "kernels/operations/work.h"

#include <algorithm>

#include "kernels/operations/attention.h"
#include "kernels/operations/embedding.h"
#include "kernels/operations/feed_forward.h"
#include "kernels/operations/linear.h"
#include "kernels/operations/loss.h"
#include "kernels/operations/norm.h"

namespace dither {

namespace {

/// Bytes of `elements` of a tensor, 0 where it is absent. A view says whether its tensor exists.
int64_t of(ConstView tensor, int64_t elements) { return tensor ? elements * size_of(tensor.type) : 0; }
int64_t of(const float* tensor, int64_t elements) { return tensor != nullptr ? 4 * elements : 0; }

}  // namespace

/// Rows of the token table are read where a token names them: at most N of them.
int64_t EmbeddingForward::bytes() const {
  return of(y, N * C) + 4 * N + of(token_table, std::min(N, rows) * C) + of(position_table, T * C);
}

/// Without `accumulate` every row is written; with it only those that tokens name change.
int64_t EmbeddingBackward::bytes() const {
  const int64_t token_rows = accumulate ? 2 * std::min(N, rows) : rows;
  return of(dy, N * C) + 4 * N + of(d_token_table, token_rows * C) + of(d_position_table, T * C);
}

int64_t ResidualNormForward::bytes() const {
  return of(x, N * C) + of(r, N * C) + of(h, N * C) + of(y, N * C) + of(mean, N) + of(rstd, N) + of(weight, C) +
         of(bias, C);
}

int64_t ResidualNormBackward::bytes() const {
  return of(dx, N * C) + of(dh, N * C) + of(dy, N * C) + of(h, N * C) + of(mean, N) + of(rstd, N) + of(weight, C) +
         of(d_weight, C) + of(d_bias, C);
}

/// In place, value heads do not move.
int64_t RotaryForward::bytes() const {
  const int64_t heads = out.data == qkv.data ? H + Hkv : H + 2 * Hkv;
  return of(qkv, N * heads * D) + of(out, N * heads * D) + of(rstd, N * (H + Hkv)) + of(cos_sin, T * D) +
         of(query_gain, D) + of(key_gain, D);
}

int64_t RotaryBackward::bytes() const {
  const int64_t heads = d_qkv.data == d_out.data ? H + Hkv : H + 2 * Hkv;
  const int64_t norm = query_gain ? of(qkv, N * (H + Hkv) * D) + of(rstd, N * (H + Hkv)) : 0;
  return of(d_out, N * heads * D) + of(d_qkv, N * heads * D) + norm + of(cos_sin, T * D) + of(query_gain, D) +
         of(key_gain, D) + of(d_query_gain, D) + of(d_key_gain, D);
}

int64_t AttentionForward::bytes() const {
  return of(qkv, B * T * (H + 2 * Hkv) * D) + of(out, B * T * H * D) + of(lse, B * H * T);
}

/// Two products, q k and p v, over the T (T + 1) / 2 pairs that the mask leaves.
double AttentionForward::flop() const {
  return 2 * 2.0 * static_cast<double>(B * H) * (0.5 * static_cast<double>(T) * static_cast<double>(T + 1)) * D;
}

int64_t AttentionBackward::bytes() const {
  return of(qkv, B * T * (H + 2 * Hkv) * D) + of(d_qkv, B * T * (H + 2 * Hkv) * D) + of(out, B * T * H * D) +
         of(d_out, B * T * H * D) + of(lse, B * H * T);
}

/// Five products: q k again, d_out v, and those that make dq, dk and dv.
double AttentionBackward::flop() const {
  return 5 * 2.0 * static_cast<double>(B * H) * (0.5 * static_cast<double>(T) * static_cast<double>(T + 1)) * D;
}

int64_t GeluForward::bytes() const { return of(x, elements) + of(y, elements); }
int64_t GeluBackward::bytes() const { return of(x, elements) + of(dy, elements) + of(dx, elements); }
int64_t SwigluForward::bytes() const { return of(gate_up, 2 * N * F) + of(y, N * F); }
int64_t SwigluBackward::bytes() const { return of(gate_up, 2 * N * F) + of(dy, N * F) + of(d_gate_up, 2 * N * F); }

int64_t LinearForward::bytes() const {
  return of(x, N * I) + of(weight, O * I) + of(bias, O) + of(y, N * O) + of(pre_activation, N * O);
}

int64_t LinearInputGradient::bytes() const { return of(dy, N * O) + of(weight, O * I) + of(dx, N * I); }

int64_t LinearWeightGradient::bytes() const {
  const int64_t times = accumulate ? 2 : 1;
  return of(dy, N * O) + of(x, N * I) + times * (of(d_weight, O * I) + of(d_bias, O));
}

/// Padded columns are written, not read.
int64_t CrossEntropy::bytes() const {
  return of(logits, N * V) + (gradient ? of(logits, N * Vp) : 0) + of(losses, N) + 4 * N;
}

int64_t SumLosses::bytes() const { return of(losses, B * T); }
int64_t Initialise::bytes() const { return of(weight, count) + of(extra, count); }
int64_t DecideStep::bytes() const { return static_cast<int64_t>(sizeof(StepScalars)); }

/// The sum is read and written once, however many contributions there are.
int64_t Accumulate::bytes(int64_t elements) const {
  return of(addend, contributions * elements) + (first ? 1 : 2) * of(sum, elements);
}

int64_t SquaredNorm::bytes(int64_t elements) const { return of(gradient, elements); }

int64_t AdamW::bytes(int64_t elements) const {
  const int64_t state = of(weight, elements) + of(weight_extra, elements) + of(first_moment, elements) +
                        of(second_moment, elements) + of(second_moment_extra, elements);
  return 2 * state + of(gradient, elements);
}

}  // namespace dither
