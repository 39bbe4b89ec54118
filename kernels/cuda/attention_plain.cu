// Causal attention in plain FP32 on the GPU: no tensor cores, no rounding but FP32's. Made to be right, not fast.
//
//   forward   s = scale (q . k);  running top m and sum l of each query:  m' = max(m, s),  p = exp(s - m'),
//             l = l exp(m - m') + p,  o = o exp(m - m') + p v;    out = o / l,  lse = m + log l
//   backward  p = exp(scale (q . k) - lse);  delta = d_out . out;  ds = p (d_out . v - delta)
//             dq = scale sum ds k;    dv = sum p d_out;  dk = scale sum ds q
//
// Shapes  qkv, d_qkv FP32 [B,T,H+2Hkv,D]; out, d_out FP32 [B,T,H,D]; lse FP32 [B,H,T]. D: multiples of 16, 32 to 128.
// Launch  a block owns kOwned rows of one head, a warp kRows of them, and meets the other side in tiles of kTile rows.
//         A lane holds one row of the tile while products over D are formed, and every 32nd channel while sums over
//         the tile are; the weights change hands in shared memory. Forward and dq own queries and meet keys up to the
//         diagonal; dk and dv own keys and meet the queries of the group's heads, each from the diagonal on. delta:
//         a warp a row. The blocks that meet the most tiles start first.
// Memory  shared: owned rows and tiles as [rows, 32 kPlaces + 4], twice each, then the weights as [warp, tile row,
//         kRows], twice. What lies behind the last token or channel is 0. 55 KB for D = 128.
//         Workspace of backward: delta, FP32 [B,H,T]; the rest of it is not used.
// Order   of a product: rising d. Of a sum over tokens: rising, and for dk and dv by rising head of the group first.
//         Of l: each lane its own keys, then a butterfly. The order depends on T, H / Hkv and D alone.
#include <limits>
#include <type_traits>  // integral_constant

#include "base/error.h"
#include "kernels/cuda/attention_plain.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/vector.h"
#include "kernels/numerics/elementary.h"

namespace dither {
namespace {

constexpr int kWarps = 4;
constexpr int kRows = 4;                // of a warp: each value read from the tile serves four products
constexpr int kOwned = kWarps * kRows;  // divides kTile, so that a block meets the diagonal in one tile
constexpr int kTile = kWarpLanes;
constexpr int kThreads = kWarps * kWarpLanes;
[[maybe_unused]] constexpr int kBlocks =
    3;  // on an SM at least: 168 registers a thread; with 4 blocks and 128 they spill
constexpr float kMasked = -std::numeric_limits<float>::infinity();  // exp_fp32 makes an exact 0 of it

/// One 16-byte access.
struct alignas(16) Four {
  float x[4];
};

/// The rows of one head: token t begins at first + t * stride.
template <class T>
struct Rows {
  T* first;
  int64_t stride;
};

/// What the forward and backward arguments say alike.
struct Shape {
  int64_t B, T;
  int H, Hkv, D;
  DITHER_HOST_DEVICE int64_t blocks() const { return (T + kOwned - 1) / kOwned; }
};
template <class Operation>
DITHER_HOST_DEVICE Shape shape_of(const Operation& op) {
  return {op.B, op.T, op.H, op.Hkv, op.D};
}

/// Head `slot` of the packed projections of sequence b: queries, keys, then values.
template <class T>
__device__ __forceinline__ Rows<T> packed(T* qkv, const Shape& s, int64_t b, int slot) {
  const int64_t stride = int64_t{s.H + 2 * s.Hkv} * s.D;
  return {qkv + b * s.T * stride + int64_t{slot} * s.D, stride};
}

/// Head h of an output or its gradient.
template <class T>
__device__ __forceinline__ Rows<T> output(T* out, const Shape& s, int64_t b, int h) {
  const int64_t stride = int64_t{s.H} * s.D;
  return {out + b * s.T * stride + int64_t{h} * s.D, stride};
}

/// What a block owns: kOwned rows from `first` on of a head of sequence b. Rows come slowest, so that all heads begin
/// with the same ones: with the first, or with the last of `blocks`.
struct Place {
  int64_t b, first;
  int head;
};
__device__ __forceinline__ Place place_of(const Shape& s, int heads, bool last_first) {
  const int64_t all = s.B * heads, order = blockIdx.x / all, head = blockIdx.x % all;
  return {head / heads, (last_first ? s.blocks() - 1 - order : order) * kOwned, static_cast<int>(head % heads)};
}

/// The shared memory of a block; widths are those of all kPlaces channels of a lane.
template <int kPlaces>
struct Shared {
  static constexpr int kStride = kWarpLanes * kPlaces + 4;  // eight lanes that read 16 bytes a row meet all the banks
  static constexpr int kFloats = 2 * (kOwned + kTile) * kStride + 2 * kTile * kOwned;
  static constexpr int64_t kBytes = int64_t{kFloats} * 4;

  __device__ static float* owned(int which) { return shared_memory<float>() + which * kOwned * kStride; }
  __device__ static float* tile(int which) { return owned(2) + which * kTile * kStride; }
  /// Of this warp: one Four, its rows, for each row of the tile.
  __device__ static Four* weights(int which) {
    return reinterpret_cast<Four*>(tile(2)) + (which * kWarps + static_cast<int>(threadIdx.y)) * kTile;
  }
};

__device__ __forceinline__ int lane_of() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int first_row() { return static_cast<int>(threadIdx.y) * kRows; }  // of this warp

/// Rows [begin, begin + count) into shared memory, 0 behind the last token and channel. All threads of the block.
template <int kPlaces>
__device__ __forceinline__ void load_rows(float* to, int count, Rows<const float> from, int64_t begin, int64_t T,
                                          int D) {
  constexpr int kFours = 8 * kPlaces;  // of a row
  for (int i = first_row() / kRows * kWarpLanes + lane_of(); i < count * kFours; i += kThreads) {
    const int r = i / kFours, d = i % kFours * 4;
    Four x = {};
    if (begin + r < T && d < D) x = *reinterpret_cast<const Four*>(from.first + (begin + r) * from.stride + d);
    *reinterpret_cast<Four*>(to + r * Shared<kPlaces>::kStride + d) = x;
  }
}

/// products[r] = row r of this warp . the lane's row of the tile
template <int kPlaces>
__device__ __forceinline__ void row_products(const float* owned, const float* tile, int D, float (&products)[kRows]) {
  constexpr int kStride = Shared<kPlaces>::kStride;
  const float* mine = owned + first_row() * kStride;
  const float* other = tile + lane_of() * kStride;
  DITHER_UNROLL
  for (int r = 0; r < kRows; ++r) products[r] = 0;
  for (int d = 0; d < D; d += 4) {
    const Four b = *reinterpret_cast<const Four*>(other + d);
    DITHER_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Four a = *reinterpret_cast<const Four*>(mine + r * kStride + d);
      DITHER_UNROLL
      for (int i = 0; i < 4; ++i) products[r] += a.x[i] * b.x[i];
    }
  }
}

/// sums[r][i] += sum over rows u of the tile of weights[u][r] * tile[u][lane + 32 i]
template <int kPlaces>
__device__ __forceinline__ void add_rows(const Four* weights, const float* tile, float (&sums)[kRows][kPlaces]) {
  for (int u = 0; u < kTile; ++u) {
    const Four w = weights[u];
    DITHER_UNROLL
    for (int i = 0; i < kPlaces; ++i) {
      const float x = tile[u * Shared<kPlaces>::kStride + lane_of() + kWarpLanes * i];
      DITHER_UNROLL
      for (int r = 0; r < kRows; ++r) sums[r][i] += w.x[r] * x;
    }
  }
}

/// to[first + r, d] = sums[r] * factor[r], for the rows of this warp that exist.
template <int kPlaces>
__device__ __forceinline__ void store_rows(Rows<float> to, int64_t first, int64_t T, int D,
                                           const float (&sums)[kRows][kPlaces], const float (&factor)[kRows]) {
  DITHER_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const int64_t t = first + first_row() + r;
    DITHER_UNROLL
    for (int i = 0; i < kPlaces; ++i) {
      const int d = lane_of() + kWarpLanes * i;
      if (t < T && d < D) to.first[t * to.stride + d] = sums[r][i] * factor[r];
    }
  }
}

/// The running softmax of a warp's queries.
template <int kPlaces>
struct Softmax {
  float top[kRows];
  float total[kRows];          // over this lane's keys alone
  float sums[kRows][kPlaces];  // of p v

  __device__ __forceinline__ Softmax() {
    DITHER_UNROLL
    for (int r = 0; r < kRows; ++r) {
      top[r] = kMasked;
      total[r] = 0;
      DITHER_UNROLL
      for (int i = 0; i < kPlaces; ++i) sums[r][i] = 0;
    }
  }

  /// scores[r] of the lane's key become weights, and what was summed before is brought to the new top.
  __device__ __forceinline__ Four weigh(const float (&scores)[kRows]) {
    Four weights;
    DITHER_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const float highest = warp_max(scores[r]);
      const float now = top[r] > highest ? top[r] : highest;
      const float keep = exp_fp32(top[r] - now);
      weights.x[r] = exp_fp32(scores[r] - now);
      top[r] = now;
      total[r] = total[r] * keep + weights.x[r];
      DITHER_UNROLL
      for (int i = 0; i < kPlaces; ++i) sums[r][i] *= keep;
    }
    return weights;
  }
};

template <int kPlaces>
__global__ void __launch_bounds__(kThreads, kBlocks) plain_forward_kernel(const AttentionForward op) {
  using Memory = Shared<kPlaces>;
  const Shape s = shape_of(op);
  const Place at = place_of(s, s.H, true);
  const float* qkv = static_cast<const float*>(op.qkv.data);
  const int key_head = s.H + at.head / (s.H / s.Hkv);
  load_rows<kPlaces>(Memory::owned(0), kOwned, packed(qkv, s, at.b, at.head), at.first, s.T, s.D);
  Softmax<kPlaces> softmax;
  for (int64_t u = 0; u < at.first + kOwned; u += kTile) {
    __syncthreads();  // all have done with the tile before
    load_rows<kPlaces>(Memory::tile(0), kTile, packed(qkv, s, at.b, key_head), u, s.T, s.D);
    load_rows<kPlaces>(Memory::tile(1), kTile, packed(qkv, s, at.b, key_head + s.Hkv), u, s.T, s.D);
    __syncthreads();  // it is loaded
    float scores[kRows];
    row_products<kPlaces>(Memory::owned(0), Memory::tile(0), s.D, scores);
    DITHER_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const bool seen = u + lane_of() <= at.first + first_row() + r;
      scores[r] = seen ? op.scale * scores[r] : kMasked;
    }
    Memory::weights(0)[lane_of()] = softmax.weigh(scores);
    __syncwarp();  // every lane's weights are there
    add_rows<kPlaces>(Memory::weights(0), Memory::tile(1), softmax.sums);
  }
  float share[kRows];
  DITHER_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const float total = warp_sum(softmax.total[r]);
    const int64_t t = at.first + first_row() + r;
    share[r] = 1.0f / total;
    if (lane_of() == 0 && t < s.T) {
      op.lse[(at.b * s.H + at.head) * s.T + t] = static_cast<float>(softmax.top[r] + log_fp64(total));
    }
  }
  store_rows<kPlaces>(output(static_cast<float*>(op.out.data), s, at.b, at.head), at.first, s.T, s.D, softmax.sums,
                      share);
}

/// delta of row n of [B,T,H], by one warp.
__global__ void __launch_bounds__(kThreads) plain_delta_kernel(const AttentionBackward op) {
  const int64_t n = int64_t{blockIdx.x} * kWarps + threadIdx.y;
  if (n >= op.B * op.T * op.H) return;  // a whole warp leaves
  const float* d_out = static_cast<const float*>(op.d_out.data) + n * op.D;
  const float* out = static_cast<const float*>(op.out.data) + n * op.D;
  float sum = 0;
  for (int d = lane_of(); d < op.D; d += kWarpLanes) sum += d_out[d] * out[d];
  sum = warp_sum(sum);
  const int64_t token = n / op.H, h = n % op.H;
  if (lane_of() == 0) static_cast<float*>(op.workspace)[(token / op.T * op.H + h) * op.T + token % op.T] = sum;
}

/// p and ds of one query and one key. `score` is q . k, `d_weight` is d_out . v.
struct Weight {
  float p, ds;
};
__device__ __forceinline__ Weight weight_of(float score, float d_weight, float scale, float lse, float delta) {
  const float p = exp_fp32(scale * score - lse);
  return {p, p * (d_weight - delta)};
}

template <int kPlaces>
__global__ void __launch_bounds__(kThreads, kBlocks) plain_query_gradient_kernel(const AttentionBackward op) {
  using Memory = Shared<kPlaces>;
  const Shape s = shape_of(op);
  const Place at = place_of(s, s.H, true);
  const float* qkv = static_cast<const float*>(op.qkv.data);
  const int key_head = s.H + at.head / (s.H / s.Hkv);
  load_rows<kPlaces>(Memory::owned(0), kOwned, packed(qkv, s, at.b, at.head), at.first, s.T, s.D);
  load_rows<kPlaces>(Memory::owned(1), kOwned, output(static_cast<const float*>(op.d_out.data), s, at.b, at.head),
                     at.first, s.T, s.D);
  float lse[kRows], delta[kRows], sums[kRows][kPlaces] = {};
  DITHER_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const int64_t t = at.first + first_row() + r, row = (at.b * s.H + at.head) * s.T + t;
    lse[r] = t < s.T ? op.lse[row] : 0.0f;
    delta[r] = t < s.T ? static_cast<const float*>(op.workspace)[row] : 0.0f;
  }
  for (int64_t u = 0; u < at.first + kOwned; u += kTile) {
    __syncthreads();  // all have done with the tile before
    load_rows<kPlaces>(Memory::tile(0), kTile, packed(qkv, s, at.b, key_head), u, s.T, s.D);
    load_rows<kPlaces>(Memory::tile(1), kTile, packed(qkv, s, at.b, key_head + s.Hkv), u, s.T, s.D);
    __syncthreads();  // it is loaded
    float scores[kRows], d_weights[kRows];
    row_products<kPlaces>(Memory::owned(0), Memory::tile(0), s.D, scores);
    row_products<kPlaces>(Memory::owned(1), Memory::tile(1), s.D, d_weights);
    Four ds;
    DITHER_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const bool seen = u + lane_of() <= at.first + first_row() + r;
      ds.x[r] = seen ? weight_of(scores[r], d_weights[r], op.scale, lse[r], delta[r]).ds : 0.0f;
    }
    Memory::weights(0)[lane_of()] = ds;
    __syncwarp();  // every lane's weights are there
    add_rows<kPlaces>(Memory::weights(0), Memory::tile(0), sums);
  }
  const float scale[kRows] = {op.scale, op.scale, op.scale, op.scale};
  store_rows<kPlaces>(packed(static_cast<float*>(op.d_qkv.data), s, at.b, at.head), at.first, s.T, s.D, sums, scale);
}

template <int kPlaces>
__global__ void __launch_bounds__(kThreads, kBlocks) plain_key_gradient_kernel(const AttentionBackward op) {
  using Memory = Shared<kPlaces>;
  const Shape s = shape_of(op);
  const Place at = place_of(s, s.Hkv, false);
  const float* qkv = static_cast<const float*>(op.qkv.data);
  const int key_head = s.H + at.head, group = s.H / s.Hkv;
  load_rows<kPlaces>(Memory::owned(0), kOwned, packed(qkv, s, at.b, key_head), at.first, s.T, s.D);
  load_rows<kPlaces>(Memory::owned(1), kOwned, packed(qkv, s, at.b, key_head + s.Hkv), at.first, s.T, s.D);
  float d_keys[kRows][kPlaces] = {}, d_values[kRows][kPlaces] = {};
  for (int h = at.head * group; h < (at.head + 1) * group; ++h) {
    for (int64_t tile = at.first / kTile * kTile; tile < s.T; tile += kTile) {
      __syncthreads();  // all have done with the tile before
      load_rows<kPlaces>(Memory::tile(0), kTile, packed(qkv, s, at.b, h), tile, s.T, s.D);
      load_rows<kPlaces>(Memory::tile(1), kTile, output(static_cast<const float*>(op.d_out.data), s, at.b, h), tile,
                         s.T, s.D);
      __syncthreads();  // it is loaded
      float scores[kRows], d_weights[kRows];
      row_products<kPlaces>(Memory::owned(0), Memory::tile(0), s.D, scores);
      row_products<kPlaces>(Memory::owned(1), Memory::tile(1), s.D, d_weights);
      const int64_t t = tile + lane_of(), row = (at.b * s.H + h) * s.T + t;
      const float lse = t < s.T ? op.lse[row] : 0.0f;
      const float delta = t < s.T ? static_cast<const float*>(op.workspace)[row] : 0.0f;
      Four p, ds;
      DITHER_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const bool seen = at.first + first_row() + r <= t;  // queries behind the last one are zeros in the tile
        const Weight w = weight_of(scores[r], d_weights[r], op.scale, lse, delta);
        p.x[r] = seen ? w.p : 0.0f;
        ds.x[r] = seen ? w.ds : 0.0f;
      }
      Memory::weights(0)[lane_of()] = ds;
      Memory::weights(1)[lane_of()] = p;
      __syncwarp();  // every lane's weights are there
      add_rows<kPlaces>(Memory::weights(0), Memory::tile(0), d_keys);
      add_rows<kPlaces>(Memory::weights(1), Memory::tile(1), d_values);
    }
  }
  const float scale[kRows] = {op.scale, op.scale, op.scale, op.scale}, one[kRows] = {1, 1, 1, 1};
  float* d_qkv = static_cast<float*>(op.d_qkv.data);
  store_rows<kPlaces>(packed(d_qkv, s, at.b, key_head), at.first, s.T, s.D, d_keys, scale);
  store_rows<kPlaces>(packed(d_qkv, s, at.b, key_head + s.Hkv), at.first, s.T, s.D, d_values, one);
}

/// body(std::integral_constant) of the channels of a lane, ceil(D / 32).
template <class Body>
void with_places(int D, const Body& body) {
  if (D <= 32) return body(std::integral_constant<int, 1>());
  if (D <= 64) return body(std::integral_constant<int, 2>());
  if (D <= 96) return body(std::integral_constant<int, 3>());
  body(std::integral_constant<int, 4>());
}

/// One block for each kOwned rows of `heads` heads of every sequence.
Launch launch_of(const char* operation, const Shape& s, int heads, int64_t shared_bytes) {
  return {operation, blocks_of(s.blocks() * s.B * heads, 1), dim3(kWarpLanes, kWarps), shared_bytes};
}

}  // namespace

namespace cuda {

void plain_attention_forward(const AttentionForward& op, Stream stream) {
  op.check();
  DITHER_ASSERT(op.qkv.type == DType::fp32);
  with_places(op.D, [&](auto places) {
    constexpr int kPlaces = decltype(places)::value;
    launch(launch_of("attention_forward", shape_of(op), op.H, Shared<kPlaces>::kBytes), stream,
           plain_forward_kernel<kPlaces>, op);
  });
}

void plain_attention_backward(const AttentionBackward& op, Stream stream) {
  op.check();
  DITHER_ASSERT(op.qkv.type == DType::fp32);
  launch({"attention_backward", blocks_of(op.B * op.T * op.H, kWarps), dim3(kWarpLanes, kWarps)}, stream,
         plain_delta_kernel, op);
  with_places(op.D, [&](auto places) {
    constexpr int kPlaces = decltype(places)::value;
    const int64_t bytes = Shared<kPlaces>::kBytes;
    launch(launch_of("attention_backward", shape_of(op), op.Hkv, bytes), stream, plain_key_gradient_kernel<kPlaces>,
           op);
    launch(launch_of("attention_backward", shape_of(op), op.H, bytes), stream, plain_query_gradient_kernel<kPlaces>,
           op);
  });
}

}  // namespace cuda
}  // namespace dither
