// Residual add and normalisation on the CPU: a row at a time, whose channels stay in the first-level cache between the
// passes over it, so that main memory sees each tensor once.
//
//   forward   h = RN(x + r);  m = mean(h) or 0;  s = 1 / sqrt(mean((h - m)^2) + eps);  y = RN((h - m) * s * w + bias)
//   backward  z = (h - m) * s;  g = dy * w;  dx = RN(dh + s * (g - mean(g) - z * mean(g * z))), without mean(g) for
//   RMS;
//             d_weight = sum_n dy * z;  d_bias = sum_n dy
//
// Order of adding: sums over channels in sixteen lanes, then over the lanes; sums over n in blocks of kRows, then over
// blocks. Workspace of backward, FP32 [blocks, 2, C]: a block's sums for d_weight, then those for d_bias.
#include <cmath>
#include <cstring>

#include "kernels/cpu/block_sums.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector.h"

namespace dither {

namespace {

constexpr int64_t kForwardRows = 16;  // a part of forward: a few us

template <class R, class A, class W>
struct Forward {
  const ResidualNormForward& op;

  /// The new residual stream of row n, rounded; x itself where no branch ends.
  const R* add(int64_t n) const {
    const R* x = data_of<R>(op.x) + n * op.C;
    if (!op.r) return x;
    const A* r = data_of<A>(op.r) + n * op.C;
    R* h = data_of<R>(op.h) + n * op.C;
    sweep(op.C, [&](int64_t c, auto part) { store(h + c, load(x + c, part) + load(r + c, part), part); });
    return h;
  }

  float mean_of(const R* h) const {
    Lanes total{};
    sweep(op.C, [&](int64_t c, auto part) { total += load(h + c, part); });
    return sum(total) / static_cast<float>(op.C);
  }

  float rstd_of(const R* h, float mean) const {
    Lanes squares{};
    sweep(op.C, [&](int64_t c, auto part) {
      const Lanes centred = kept(load(h + c, part) - mean, part);
      squares += centred * centred;
    });
    return 1.0f / std::sqrt(sum(squares) / static_cast<float>(op.C) + op.epsilon);
  }

  void row(int64_t n) const {
    const R* h = add(n);
    A* y = data_of<A>(op.y) + n * op.C;
    const W* weight = data_of<W>(op.weight);
    const float mean = op.mean != nullptr ? mean_of(h) : 0.0f;
    const float rstd = rstd_of(h, mean);
    op.rstd[n] = rstd;
    if (op.mean == nullptr) {
      sweep(op.C, [&](int64_t c, auto part) { store(y + c, load(h + c, part) * rstd * load(weight + c, part), part); });
      return;
    }
    op.mean[n] = mean;
    const W* bias = data_of<W>(op.bias);
    sweep(op.C, [&](int64_t c, auto part) {
      const Lanes z = (load(h + c, part) - mean) * rstd;
      store(y + c, z * load(weight + c, part) + load(bias + c, part), part);
    });
  }
};

template <class R, class A, class W>
struct Backward {
  const ResidualNormBackward& op;

  /// Rows [begin, end), one block: their dx, and the block's sums over n in `d_weight` and `d_bias`.
  void block(int64_t begin, int64_t end, float* d_weight, float* d_bias) const {
    std::memset(d_weight, 0, sizeof(float) * static_cast<size_t>(op.C));
    std::memset(d_bias, 0, sizeof(float) * static_cast<size_t>(op.C));
    for (int64_t n = begin; n < end; ++n) {
      const float mean = op.mean != nullptr ? op.mean[n] : 0.0f;
      op.mean != nullptr ? row<true>(n, mean, d_weight, d_bias) : row<false>(n, mean, d_weight, d_bias);
    }
  }

  template <bool centred>
  void row(int64_t n, float mean, float* d_weight, float* d_bias) const {
    const A* dy = data_of<A>(op.dy) + n * op.C;
    const R* h = data_of<R>(op.h) + n * op.C;
    const W* weight = data_of<W>(op.weight);
    const float rstd = op.rstd[n];
    Lanes sum_g{}, sum_gz{};
    sweep(op.C, [&](int64_t c, auto part) {
      const Lanes gradient = load(dy + c, part);
      const Lanes z = (load(h + c, part) - mean) * rstd;  // upper lanes of a half: times a gradient of 0
      const Lanes g = gradient * load(weight + c, part);
      sum_gz += g * z;
      store(d_weight + c, load(d_weight + c, part) + gradient * z, part);
      if constexpr (centred) {
        sum_g += g;
        store(d_bias + c, load(d_bias + c, part) + gradient, part);
      }
    });
    const float mean_g = centred ? sum(sum_g) / static_cast<float>(op.C) : 0.0f;
    const float mean_gz = sum(sum_gz) / static_cast<float>(op.C);
    const R* dh = op.dh ? data_of<R>(op.dh) + n * op.C : nullptr;
    R* dx = data_of<R>(op.dx) + n * op.C;
    sweep(op.C, [&](int64_t c, auto part) {
      const Lanes z = (load(h + c, part) - mean) * rstd;
      const Lanes g = load(dy + c, part) * load(weight + c, part);
      const Lanes branch = rstd * (g - mean_g - z * mean_gz);
      store(dx + c, dh != nullptr ? load(dh + c, part) + branch : branch, part);
    });
  }
};

/// body(R{}, A{}, W{}) for the types of the residual stream, the activations and the gain.
template <class Body>
void with_types(DType residual, DType activation, DType weight, const Body& body) {
  with_type(residual,
            [&](auto r) { with_type(activation, [&](auto a) { with_type(weight, [&](auto w) { body(r, a, w); }); }); });
}

}  // namespace

void CpuBackend::residual_norm_forward(const ResidualNormForward& op, Stream) {
  op.check();
  with_types(op.x.type, op.y.type, op.weight.type, [&](auto r, auto a, auto w) {
    const Forward<decltype(r), decltype(a), decltype(w)> forward{op};
    parallel_ranges(threads_, op.N, kForwardRows, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) forward.row(n);
    });
  });
}

void CpuBackend::residual_norm_backward(const ResidualNormBackward& op, Stream) {
  op.check();
  auto* sums = static_cast<float*>(op.workspace);
  with_types(op.h.type, op.dy.type, op.weight.type, [&](auto r, auto a, auto w) {
    const Backward<decltype(r), decltype(a), decltype(w)> backward{op};
    parallel_ranges(threads_, op.N, op.kRows, [&](int64_t begin, int64_t end) {
      float* block = sums + begin / op.kRows * 2 * op.C;
      backward.block(begin, end, block, block + op.C);
    });
  });
  const int64_t blocks = (op.N + op.kRows - 1) / op.kRows;
  add_block_sums(op.d_weight, sums, blocks, 0, op.C, threads_);
  if (op.d_bias) add_block_sums(op.d_bias, sums, blocks, 1, op.C, threads_);
}

}  // namespace dither
