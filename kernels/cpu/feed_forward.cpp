// GELU and SwiGLU, forward and backward: one pass each over memory, sixteen values at a time.
//
//   gelu    y = RN(gelu(x))                                     dx = RN(dy * gelu'(x))
//   swiglu  y = RN(silu(gate) * up)      d_gate = RN(dy * up * silu'(gate))      d_up = RN(dy * silu(gate))
//
// Every element is its own, so neither the cut into parts nor the threads show in the bits. Not memory bounds them but
// the exponential and the division: about 40 cycles for sixteen values.
#include <algorithm>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector.h"
#include "kernels/numerics/elementary.h"

namespace dither {

namespace {

constexpr int64_t kGrain = 16384;  // elements a part: some 15 us, so that handing it out costs little

int64_t rows_a_part(int F) { return std::max<int64_t>(1, kGrain / F); }

/// silu and its derivative of sixteen values: one loop, so that the compiler computes their common sigmoid once.
struct SiluLanes {
  explicit SiluLanes(Lanes gate) {
    alignas(64) float y[kLanes], dy[kLanes];
    store(y, gate);
#pragma omp simd simdlen(16)
    for (int i = 0; i < kLanes; ++i) {
      dy[i] = silu_derivative(y[i]);
      y[i] = silu(y[i]);
    }
    value = load(y);
    derivative = load(dy);
  }
  Lanes value, derivative;
};

template <class T>
void gelu_forward_typed(const GeluForward& op, int threads) {
  T* y = data_of<T>(op.y);
  const T* x = data_of<T>(op.x);
  parallel_ranges(threads, op.elements, kGrain, [&](int64_t begin, int64_t end) {
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) store(y + i, map(load(x + i), [](float v) { return gelu(v); }));
    for (; i < end; ++i) y[i] = rounded<T>(gelu(widened(x[i])));
  });
}

template <class T>
void gelu_backward_typed(const GeluBackward& op, int threads) {
  T* dx = data_of<T>(op.dx);
  const T* dy = data_of<T>(op.dy);
  const T* x = data_of<T>(op.x);
  parallel_ranges(threads, op.elements, kGrain, [&](int64_t begin, int64_t end) {
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      store(dx + i, load(dy + i) * map(load(x + i), [](float v) { return gelu_derivative(v); }));
    }
    for (; i < end; ++i) dx[i] = rounded<T>(widened(dy[i]) * gelu_derivative(widened(x[i])));
  });
}

template <class T>
void swiglu_forward_typed(const SwigluForward& op, int threads) {
  parallel_ranges(threads, op.N, rows_a_part(op.F), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* gate = data_of<T>(op.gate_up) + n * 2 * op.F;
      const T* up = gate + op.F;
      T* y = data_of<T>(op.y) + n * op.F;
      sweep(op.F, [&](int64_t f, auto part) {
        const Lanes activated = map(load(gate + f, part), [](float v) { return silu(v); });
        store(y + f, activated * load(up + f, part), part);
      });
    }
  });
}

template <class T>
void swiglu_backward_typed(const SwigluBackward& op, int threads) {
  parallel_ranges(threads, op.N, rows_a_part(op.F), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* gate = data_of<T>(op.gate_up) + n * 2 * op.F;
      const T* up = gate + op.F;
      const T* dy = data_of<T>(op.dy) + n * op.F;
      T* d_gate = data_of<T>(op.d_gate_up) + n * 2 * op.F;
      T* d_up = d_gate + op.F;
      sweep(op.F, [&](int64_t f, auto part) {
        const SiluLanes activated(load(gate + f, part));
        const Lanes g = load(dy + f, part), u = load(up + f, part);
        store(d_gate + f, g * u * activated.derivative, part);  // after every load: d_gate_up may be gate_up
        store(d_up + f, g * activated.value, part);
      });
    }
  });
}

}  // namespace

void CpuBackend::gelu_forward(const GeluForward& op, Stream) {
  op.check();
  with_type(op.x.type, [&](auto type) { gelu_forward_typed<decltype(type)>(op, threads_); });
}

void CpuBackend::gelu_backward(const GeluBackward& op, Stream) {
  op.check();
  with_type(op.x.type, [&](auto type) { gelu_backward_typed<decltype(type)>(op, threads_); });
}

void CpuBackend::swiglu_forward(const SwigluForward& op, Stream) {
  op.check();
  with_type(op.gate_up.type, [&](auto type) { swiglu_forward_typed<decltype(type)>(op, threads_); });
}

void CpuBackend::swiglu_backward(const SwigluBackward& op, Stream) {
  op.check();
  with_type(op.gate_up.type, [&](auto type) { swiglu_backward_typed<decltype(type)>(op, threads_); });
}

}  // namespace dither
