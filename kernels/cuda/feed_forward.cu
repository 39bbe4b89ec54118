// GELU and SwiGLU, forward and backward: one pass each over memory, eight values a thread.
//
//   gelu    y = RN(gelu(x))                                     dx = RN(dy * gelu'(x))
//   swiglu  y = RN(silu(gate) * up)      d_gate = RN(dy * up * silu'(gate))      d_up = RN(dy * silu(gate))
//
// Shapes  gelu: all [elements], any count. swiglu: gate_up [N,2F], y and dy [N,F]. One type for all: BF16 or FP32.
// Alias   y may be x, dx may be dy, d_gate_up may be gate_up: a thread reads all of its inputs before it writes.
// Launch  blocks of 256. gelu: a thread for each eight and one for each element behind the last eight. swiglu: a block
//         is a part of one row, so that no thread divides 64-bit numbers; no shared memory.
// Order   nothing is summed: every element has the CPU's bits.
// Floor   BF16 bytes an element of x or of y: gelu 4 and 6, swiglu 6 and 10.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/vector.h"
#include "kernels/numerics/elementary.h"

namespace dither {
namespace {

constexpr int kThreads = 256;  // 8 to 16 KB of loads under way in each block

/// Threads for [elements]: thread i has eight elements from 8 i on, and the threads after the last full eight have one
/// each, the i-th element first_single(elements) + i.
int64_t threads_of(int64_t elements) { return elements / 8 + elements % 8; }
__device__ __forceinline__ int64_t first_single(int64_t elements) { return elements / 8 * 7; }

__device__ __forceinline__ int64_t own_thread() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }

template <class T>
__global__ void __launch_bounds__(kThreads) gelu_forward_kernel(T* y, const T* x, int64_t elements) {
  const int64_t i = own_thread();
  if (i < elements / 8) {
    float v[8];
    load8(x + 8 * i, v);
    for (int k = 0; k < 8; ++k) v[k] = gelu(v[k]);
    store8(y + 8 * i, v);
  } else if (const int64_t e = first_single(elements) + i; e < elements) {
    store1(y + e, gelu(load1(x + e)));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) gelu_backward_kernel(T* dx, const T* dy, const T* x, int64_t elements) {
  const int64_t i = own_thread();
  if (i < elements / 8) {
    float v[8], g[8];
    load8(x + 8 * i, v);
    load8(dy + 8 * i, g);
    for (int k = 0; k < 8; ++k) v[k] = g[k] * gelu_derivative(v[k]);
    store8(dx + 8 * i, v);
  } else if (const int64_t e = first_single(elements) + i; e < elements) {
    store1(dx + e, load1(dy + e) * gelu_derivative(load1(x + e)));
  }
}

/// Where a thread stands in a matrix whose rows of F are cut into `parts` blocks; f >= F: it has nothing to do.
struct RowPlace {
  int64_t n;
  int f;
};
__device__ __forceinline__ RowPlace row_place(unsigned parts) {
  return {blockIdx.x / parts, static_cast<int>((blockIdx.x % parts * kThreads + threadIdx.x) * 8)};
}

template <class T>
__global__ void __launch_bounds__(kThreads) swiglu_forward_kernel(T* y, const T* gate_up, int F, unsigned parts) {
  const RowPlace at = row_place(parts);
  if (at.f >= F) return;
  const T* gate = gate_up + at.n * 2 * F + at.f;
  float g[8], u[8];
  load8(gate, g);
  load8(gate + F, u);
  for (int k = 0; k < 8; ++k) g[k] = silu(g[k]) * u[k];
  store8(y + at.n * F + at.f, g);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(T* d_gate_up, const T* dy, const T* gate_up, int F, unsigned parts) {
  const RowPlace at = row_place(parts);
  if (at.f >= F) return;
  const int64_t place = at.n * 2 * F + at.f;
  float gate[8], up[8], g[8];
  load8(gate_up + place, gate);
  load8(gate_up + place + F, up);
  load8(dy + at.n * F + at.f, g);
  for (int k = 0; k < 8; ++k) {
    up[k] = g[k] * up[k] * silu_derivative(gate[k]);  // d_gate
    gate[k] = g[k] * silu(gate[k]);                   // d_up
  }
  store8(d_gate_up + place, up);
  store8(d_gate_up + place + F, gate);
}

Launch over_elements(const char* operation, int64_t elements) {
  return {operation, dim3(blocks_of(threads_of(elements), kThreads)), dim3(kThreads)};
}

unsigned parts_of_row(int F) { return blocks_of(F / 8, kThreads); }
Launch over_rows(const char* operation, int64_t N, int F) {
  return {operation, dim3(static_cast<unsigned>(N * parts_of_row(F))), dim3(kThreads)};
}

}  // namespace

namespace cuda {

void gelu_forward(const GeluForward& op, Stream stream) {
  op.check();
  with_element(op.x.type, [&]<class T>(T) {
    launch(over_elements("gelu_forward", op.elements), stream, gelu_forward_kernel<T>, elements<T>(op.y),
           elements<T>(op.x), op.elements);
  });
}

void gelu_backward(const GeluBackward& op, Stream stream) {
  op.check();
  with_element(op.x.type, [&]<class T>(T) {
    launch(over_elements("gelu_backward", op.elements), stream, gelu_backward_kernel<T>, elements<T>(op.dx),
           elements<T>(op.dy), elements<T>(op.x), op.elements);
  });
}

void swiglu_forward(const SwigluForward& op, Stream stream) {
  op.check();
  with_element(op.gate_up.type, [&]<class T>(T) {
    launch(over_rows("swiglu_forward", op.N, op.F), stream, swiglu_forward_kernel<T>, elements<T>(op.y),
           elements<T>(op.gate_up), op.F, parts_of_row(op.F));
  });
}

void swiglu_backward(const SwigluBackward& op, Stream stream) {
  op.check();
  with_element(op.gate_up.type, [&]<class T>(T) {
    launch(over_rows("swiglu_backward", op.N, op.F), stream, swiglu_backward_kernel<T>, elements<T>(op.d_gate_up),
           elements<T>(op.dy), elements<T>(op.gate_up), op.F, parts_of_row(op.F));
  });
}

}  // namespace cuda
}  // namespace dither
