// Rotary positions with optional QK-norm on the CPU: a token at a time, whose heads all turn by the same angles.
//
//   forward   z = x * s, s = 1 / sqrt(mean(x^2) + eps);  u = z * gain (u = x without QK-norm)
//             out = (u0 cos - u1 sin, u1 cos + u0 sin), u0 and u1 the halves of u
//   backward  du = (g0 cos + g1 sin, g1 cos - g0 sin);  d_gain = sum du * z;  dz = du * gain
//             dx = s * (dz - z * mean(dz * z))
//
// Half a head is 16 to 64 values, a multiple of 8. A head lives in FP32 on the stack between the two steps, so it is
// rounded once. Order of the gain sums: a block of kRows tokens by rising token, then head; then over the blocks.
#include <cmath>
#include <cstring>

#include "kernels/cpu/block_sums.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector.h"

namespace dither {

namespace {

constexpr int kMaxD = 128;
constexpr int64_t kForwardTokens = 32;  // a part of forward: some 10 us

/// The angles of one position, cosines and sines apart.
struct Angles {
  alignas(64) float cosine[kMaxD / 2];
  alignas(64) float sine[kMaxD / 2];
  bool present;  // false: every head stays as it is

  Angles(const float* cos_sin, int64_t position, int D) : present(cos_sin != nullptr) {
    for (int i = 0; present && i < D / 2; ++i) {
      cosine[i] = cos_sin[position * D + 2 * i];
      sine[i] = cos_sin[position * D + 2 * i + 1];
    }
  }
};

/// to <- the rotation of from by the angles (direction 1) or back (direction -1), rounded where `to` is BF16.
template <class To, class From>
void rotate(To* to, const From* from, const Angles& angles, int D, float direction) {
  if (!angles.present) {
    for (int i = 0; i < D; i += kLanes) store(to + i, load(from + i));
    return;
  }
  const int half = D / 2;
  sweep(half, [&](int64_t i, auto part) {
    const Lanes a = load(from + i, part), b = load(from + i + half, part);
    const Lanes cosine = load(angles.cosine + i, part), sine = load(angles.sine + i, part) * direction;
    store(to + i, a * cosine - b * sine, part);
    store(to + i + half, b * cosine + a * sine, part);
  });
}

/// The gains of the query heads and of the key heads in FP32.
struct Gains {
  alignas(64) float query[kMaxD];
  alignas(64) float key[kMaxD];

  Gains(ConstView query_gain, ConstView key_gain, int D) {
    if (!query_gain) return;
    with_type(query_gain.type, [&](auto type) {
      for (int i = 0; i < D; i += kLanes) {
        store(query + i, load(data_of<decltype(type)>(query_gain) + i));
        store(key + i, load(data_of<decltype(type)>(key_gain) + i));
      }
    });
  }
};

/// x * s * gain in FP32; returns s.
template <class A>
float normalise(float* to, const A* x, const float* gain, int D, float epsilon) {
  Lanes squares{};
  for (int i = 0; i < D; i += kLanes) squares += load(x + i) * load(x + i);
  const float rstd = 1.0f / std::sqrt(sum(squares) / static_cast<float>(D) + epsilon);
  for (int i = 0; i < D; i += kLanes) store(to + i, load(x + i) * rstd * load(gain + i));
  return rstd;
}

/// dx from du, the gradient behind the gain; adds du * z to the gain's sums. `dx` may be the memory du came from.
template <class A>
void normalise_backward(A* dx, const float* du, const A* x, float rstd, const float* gain, float* d_gain, int D) {
  Lanes products{};
  for (int i = 0; i < D; i += kLanes) {
    const Lanes z = load(x + i) * rstd;
    store(d_gain + i, load(d_gain + i) + load(du + i) * z);
    products += load(du + i) * load(gain + i) * z;
  }
  const float mean = sum(products) / static_cast<float>(D);
  for (int i = 0; i < D; i += kLanes) {
    const Lanes z = load(x + i) * rstd;
    store(dx + i, rstd * (load(du + i) * load(gain + i) - z * mean));
  }
}

template <class A>
void forward_tokens(const RotaryForward& op, int64_t begin, int64_t end) {
  const int heads = op.H + op.Hkv;
  const int64_t row = int64_t{heads + op.Hkv} * op.D;
  const Gains gains(op.query_gain, op.key_gain, op.D);
  for (int64_t n = begin; n < end; ++n) {
    const A* x = data_of<A>(op.qkv) + n * row;
    A* out = data_of<A>(op.out) + n * row;
    const Angles angles(op.cos_sin, n % op.T, op.D);
    for (int head = 0; head < heads; ++head, x += op.D, out += op.D) {
      if (!op.query_gain) {
        rotate(out, x, angles, op.D, 1.0f);
        continue;
      }
      alignas(64) float u[kMaxD];
      const float* gain = head < op.H ? gains.query : gains.key;
      op.rstd[n * heads + head] = normalise(u, x, gain, op.D, op.epsilon);
      rotate(out, u, angles, op.D, 1.0f);
    }
    if (out != x) std::memcpy(static_cast<void*>(out), x, sizeof(A) * static_cast<size_t>(op.Hkv * op.D));
  }
}

/// One block of tokens; with QK-norm its gain sums go to `sums` [2, D], the query gain's first.
template <class A>
void backward_tokens(const RotaryBackward& op, int64_t begin, int64_t end, float* sums) {
  const int heads = op.H + op.Hkv;
  const int64_t row = int64_t{heads + op.Hkv} * op.D;
  const Gains gains(op.query_gain, op.key_gain, op.D);
  if (op.query_gain) std::memset(sums, 0, sizeof(float) * 2 * static_cast<size_t>(op.D));
  for (int64_t n = begin; n < end; ++n) {
    const A* g = data_of<A>(op.d_out) + n * row;
    A* dx = data_of<A>(op.d_qkv) + n * row;
    const Angles angles(op.cos_sin, n % op.T, op.D);
    for (int head = 0; head < heads; ++head, g += op.D, dx += op.D) {
      if (!op.query_gain) {
        rotate(dx, g, angles, op.D, -1.0f);
        continue;
      }
      alignas(64) float du[kMaxD];
      rotate(du, g, angles, op.D, -1.0f);
      const A* x = data_of<A>(op.qkv) + n * row + head * op.D;
      const bool query = head < op.H;
      normalise_backward(dx, du, x, op.rstd[n * heads + head], query ? gains.query : gains.key,
                         query ? sums : sums + op.D, op.D);
    }
    if (dx != g) std::memcpy(static_cast<void*>(dx), g, sizeof(A) * static_cast<size_t>(op.Hkv * op.D));
  }
}

}  // namespace

void CpuBackend::rotary_forward(const RotaryForward& op, Stream) {
  op.check();
  with_type(op.qkv.type, [&](auto type) {
    parallel_ranges(threads_, op.N, kForwardTokens,
                    [&](int64_t begin, int64_t end) { forward_tokens<decltype(type)>(op, begin, end); });
  });
}

void CpuBackend::rotary_backward(const RotaryBackward& op, Stream) {
  op.check();
  auto* sums = static_cast<float*>(op.workspace);
  with_type(op.d_out.type, [&](auto type) {
    parallel_ranges(threads_, op.N, op.kRows, [&](int64_t begin, int64_t end) {
      backward_tokens<decltype(type)>(op, begin, end, sums + begin / op.kRows * 2 * op.D);
    });
  });
  if (!op.query_gain) return;
  const int64_t blocks = (op.N + op.kRows - 1) / op.kRows;
  add_block_sums(op.d_query_gain, sums, blocks, 0, op.D, threads_);
  add_block_sums(op.d_key_gain, sums, blocks, 1, op.D, threads_);
}

}  // namespace dither
