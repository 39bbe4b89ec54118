// Rotary positions with optional QK-norm. A head lies in the registers of 2, 4 or 8 neighbouring lanes between the
// norm and the rotation, so it is rounded once.
//
//   forward   z = x * s, s = 1 / sqrt(mean(x^2) + eps);  u = z * gain (u = x without QK-norm)
//             out = (u0 cos - u1 sin, u1 cos + u0 sin), u0 and u1 the halves of u
//   backward  du = (g0 cos + g1 sin, g1 cos - g0 sin);  d_gain = sum du * z;  dz = du * gain
//             dx = s * (dz - z * mean(dz * z))
//
// Shapes  qkv, out and their gradients BF16 or FP32 [N,H+2Hkv,D]; rstd FP32 [N,H+Hkv]; cos_sin FP32 [T,D/2,2]; gains
//         BF16 or FP32 [D]; workspace FP32 [ceil(N/kRows),2,D]: a block's sums for the query gain, then the key gain.
// Alias   out may be qkv without QK-norm, d_qkv may be d_out: a lane reads its part of a head before it writes it.
// Launch  lane j of a head has the pairs (x[i], x[i + D/2]), 8 j <= i < 8 j + 8; lanes from D/16 on hold zeros.
//         Forward, and backward without QK-norm: grid N, a block all heads of one token, in rounds of up to 256
//         threads. Backward with QK-norm: a block kRows tokens, 256 threads, FP32 [heads at once, D] shared: 16 KB at
//         most.
// Order   sums over a head: a lane adds its first eight, then its second eight; then a butterfly over the head's lanes.
//         Gain sums: du * z of a block's tokens by rising token, then head, through shared memory; then the blocks,
//         rising. These are the CPU's bits, as is everything without QK-norm; the mean of a head is not.
// Floor   BF16 bytes an element: forward 4, backward 4 without QK-norm and 6 with it.
#include <cmath>

#include "kernels/cuda/block_sums.h"
#include "kernels/cuda/copy.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"

namespace dither {
namespace {

constexpr int kThreads = 256;  // at most; 2 * D fit, so that every gain's channel has a thread

/// Lanes that share a head, a power of two: each has up to eight pairs.
int lanes_of_head(int D) { return D <= 32 ? 2 : D <= 64 ? 4 : 8; }

/// A lane's part of a head: eight values of its first half and the eight that they turn with.
struct Pairs {
  float a[8], b[8];
};

template <class T>
__device__ __forceinline__ Pairs load_pairs(const T* from, int half) {
  Pairs x;
  load8(from, x.a);
  load8(from + half, x.b);
  return x;
}

template <class T>
__device__ __forceinline__ void store_pairs(T* to, const Pairs& x, int half) {
  store8(to, x.a);
  store8(to + half, x.b);
}

template <class T>
__device__ __forceinline__ void copy_pairs(T* to, const T* from, int half) {
  copy8(to, from);
  copy8(to + half, from + half);
}

__device__ __forceinline__ Pairs load_gain(ConstView gain, int pair, int half) {
  return gain.type == DType::bf16 ? load_pairs(static_cast<const Bf16*>(gain.data) + pair, half)
                                  : load_pairs(static_cast<const float*>(gain.data) + pair, half);
}

/// Cosines and sines of a lane's pairs; `direction` 1 turns forward, -1 back.
struct Angles {
  float cosine[8], sine[8];

  __device__ __forceinline__ Angles(const float* cos_sin, float direction) {
    for (int part = 0; part < 2; ++part) {
      float x[8];
      load8(cos_sin + 8 * part, x);
      for (int k = 0; k < 4; ++k) {
        cosine[4 * part + k] = x[2 * k];
        sine[4 * part + k] = x[2 * k + 1] * direction;
      }
    }
  }

  __device__ __forceinline__ void turn(Pairs& x) const {
    for (int k = 0; k < 8; ++k) {
      const float a = x.a[k], b = x.b[k];
      x.a[k] = a * cosine[k] - b * sine[k];
      x.b[k] = b * cosine[k] + a * sine[k];
    }
  }
};

__device__ __forceinline__ float sum_of_products(const Pairs& x, const Pairs& y) {
  float sum = 0;
  for (int k = 0; k < 8; ++k) sum += x.a[k] * y.a[k];
  for (int k = 0; k < 8; ++k) sum += x.b[k] * y.b[k];
  return sum;
}

/// The sum over the lanes of a head, in each of them. Every lane of the warp must come.
__device__ __forceinline__ float head_sum(float x, int lanes) {
  for (int other = lanes / 2; other > 0; other /= 2) x += __shfl_xor_sync(kAllLanes, x, other);
  return x;
}

/// `heads`: H + 2 Hkv, or H + Hkv where the value heads are there already.
template <class T, bool kNorm>
__global__ void __launch_bounds__(kThreads)
    rotary_kernel(const RotaryForward op, int heads, int lanes, float direction) {
  const int thread = static_cast<int>(threadIdx.x), half = op.D / 2, turned = op.H + op.Hkv;
  const int pair = thread % lanes * 8, at_once = static_cast<int>(blockDim.x) / lanes;
  const int64_t n = blockIdx.x, token = n * (turned + op.Hkv) * op.D;
  const bool holds = pair < half, turns = op.cos_sin != nullptr;
  const float* cos_sin = turns && holds ? op.cos_sin + n % op.T * op.D + 2 * pair : nullptr;
  for (int first = 0; first < heads; first += at_once) {  // the same rounds for all lanes of a warp
    const int head = first + thread / lanes;
    const T* x = static_cast<const T*>(op.qkv.data) + token + head * op.D + pair;
    T* out = static_cast<T*>(op.out.data) + token + head * op.D + pair;
    const bool value = head >= turned, active = holds && !value;
    if (holds && value && head < heads) copy_pairs(out, x, half);
    Pairs u = {};
    if (active) u = load_pairs(x, half);
    if constexpr (kNorm) {
      const float mean = head_sum(sum_of_products(u, u), lanes) / static_cast<float>(op.D);
      const float rstd = 1.0f / sqrtf(mean + op.epsilon);
      if (active) {
        const Pairs gain = load_gain(head < op.H ? op.query_gain : op.key_gain, pair, half);
        for (int k = 0; k < 8; ++k) {
          u.a[k] = u.a[k] * rstd * gain.a[k];
          u.b[k] = u.b[k] * rstd * gain.b[k];
        }
        if (pair == 0) op.rstd[n * turned + head] = rstd;
      }
    }
    if (!active) continue;
    if (turns) Angles(cos_sin, direction).turn(u);
    store_pairs(out, u, half);
  }
}

/// dx of kRows tokens and their gain sums. A round is `at_once` heads of consecutive tokens: their du * z go to shared
/// memory, where thread which * D + d adds those of the query heads (which 0) or the key heads (1), one by one.
template <class T>
__global__ void __launch_bounds__(kThreads)
    rotary_norm_backward_kernel(const RotaryBackward op, int lanes, bool copies_values) {
  float* terms = shared_memory<float>();  // [at_once,D]
  const int thread = static_cast<int>(threadIdx.x), D = op.D, half = D / 2, heads = op.H + op.Hkv;
  const int pair = thread % lanes * 8, slot = thread / lanes, at_once = kThreads / lanes;
  const int64_t first_token = int64_t{blockIdx.x} * op.kRows, row = int64_t{heads + op.Hkv} * D;
  const int64_t tokens = op.N - first_token < op.kRows ? op.N - first_token : op.kRows;
  const int items = static_cast<int>(tokens) * heads;
  const T* d_out = static_cast<const T*>(op.d_out.data);
  T* d_qkv = static_cast<T*>(op.d_qkv.data);
  const bool of_keys = thread >= D;
  const int channel = of_keys ? thread - D : thread;
  float gain_sum = 0;
  for (int first = 0; first < items; first += at_once) {
    const int item = first + slot, head = item % heads;
    const bool active = item < items && pair < half;
    const int64_t n = first_token + item / heads, place = n * row + head * D + pair;
    Pairs dz = {}, z = {};
    float rstd = 0;
    if (active) {
      dz = load_pairs(d_out + place, half);
      if (op.cos_sin != nullptr) Angles(op.cos_sin + n % op.T * D + 2 * pair, -1.0f).turn(dz);
      z = load_pairs(static_cast<const T*>(op.qkv.data) + place, half);
      rstd = op.rstd[n * heads + head];
      const Pairs gain = load_gain(head < op.H ? op.query_gain : op.key_gain, pair, half);
      Pairs term;
      for (int k = 0; k < 8; ++k) {
        z.a[k] *= rstd, z.b[k] *= rstd;
        term.a[k] = dz.a[k] * z.a[k], term.b[k] = dz.b[k] * z.b[k];
        dz.a[k] *= gain.a[k], dz.b[k] *= gain.b[k];
      }
      store_pairs(terms + slot * D + pair, term, half);
    }
    const float mean = head_sum(sum_of_products(dz, z), lanes) / static_cast<float>(D);
    if (active) {
      for (int k = 0; k < 8; ++k) {
        dz.a[k] = rstd * (dz.a[k] - z.a[k] * mean);
        dz.b[k] = rstd * (dz.b[k] - z.b[k] * mean);
      }
      store_pairs(d_qkv + place, dz, half);
    }
    __syncthreads();  // all terms are there
    const int here = items - first < at_once ? items - first : at_once;
    for (int s = 0, h = first % heads; channel < D && s < here; ++s, h = h + 1 == heads ? 0 : h + 1) {
      if ((h >= op.H) == of_keys) gain_sum += terms[s * D + channel];
    }
    __syncthreads();  // all terms are read
  }
  if (channel < D) static_cast<float*>(op.workspace)[int64_t{blockIdx.x} * 2 * D + thread] = gain_sum;
  if (!copies_values) return;
  const int eights = op.Hkv * D / 8;  // of a token's value heads
  for (int i = thread; i < static_cast<int>(tokens) * eights; i += kThreads) {
    const int64_t place = (first_token + i / eights) * row + int64_t{heads} * D + i % eights * 8;
    copy8(d_qkv + place, d_out + place);
  }
}

/// A block for one token: as many rounds as 256 threads need, all of one size.
template <class T, bool kNorm>
void start_rotary(const char* operation, const RotaryForward& op, float direction, Stream stream) {
  const int heads = op.H + op.Hkv + (op.out.data == op.qkv.data ? 0 : op.Hkv), lanes = lanes_of_head(op.D);
  const int rounds = (heads * lanes + kThreads - 1) / kThreads;
  const int threads = ((heads * lanes + rounds - 1) / rounds + kWarpLanes - 1) / kWarpLanes * kWarpLanes;
  launch({operation, dim3(static_cast<unsigned>(op.N)), dim3(static_cast<unsigned>(threads))}, stream,
         rotary_kernel<T, kNorm>, op, heads, lanes, direction);
}

}  // namespace

namespace cuda {

void rotary_forward(const RotaryForward& op, Stream stream) {
  op.check();
  with_element(op.qkv.type, [&]<class T>(T) {
    op.query_gain ? start_rotary<T, true>("rotary_forward", op, 1.0f, stream)
                  : start_rotary<T, false>("rotary_forward", op, 1.0f, stream);
  });
}

void rotary_backward(const RotaryBackward& op, Stream stream) {
  op.check();
  const char* name = "rotary_backward";
  if (!op.query_gain) {
    const RotaryForward back{.out = op.d_qkv,
                             .rstd = nullptr,
                             .qkv = op.d_out,
                             .cos_sin = op.cos_sin,
                             .query_gain = {},
                             .key_gain = {},
                             .N = op.N,
                             .T = op.T,
                             .H = op.H,
                             .Hkv = op.Hkv,
                             .D = op.D,
                             .epsilon = 0};
    return with_element(op.d_out.type, [&]<class T>(T) { start_rotary<T, false>(name, back, -1.0f, stream); });
  }
  const int lanes = lanes_of_head(op.D);
  const int64_t blocks = (op.N + op.kRows - 1) / op.kRows, shared = int64_t{kThreads / lanes} * op.D * 4;
  with_element(op.d_out.type, [&]<class T>(T) {
    launch({name, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), shared}, stream, rotary_norm_backward_kernel<T>,
           op, lanes, op.d_qkv.data != op.d_out.data);
  });
  const float* sums = static_cast<const float*>(op.workspace);
  add_block_sums(name, op.d_query_gain, sums, blocks, 2 * op.D, op.D, false, stream);
  add_block_sums(name, op.d_key_gain, sums + op.D, blocks, 2 * op.D, op.D, false, stream);
}

}  // namespace cuda
}  // namespace dither
