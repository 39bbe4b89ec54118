// Causal attention on the CPU, tile by tile: 64 queries meet 64 keys in FP32, and nothing of size T x T exists.
//
//   forward   s = (scale q) . k;  running top m and sum l of each query:  m' = max(m, s),  p = exp(s - m'),
//             l = l exp(m - m') + sum p,  o = o exp(m - m') + sum p v;    out = RN(o / l),  lse = m + log l
//   backward  p = exp(q . (scale k) - lse);  delta = d_out . out;  ds = p (d_out . v - delta)
//             dv = sum p d_out;  dk = scale sum ds q;  dq = scale sum ds k
//
// Forward holds its scores as [key, query]: tops and sums are those of sixteen queries at once, and only the queries
// are transposed, once a block. Backward holds them as [query, key]: only keys and values are transposed, once a block
// of keys. On the diagonal, row groups stop where the mask begins.
//
// Parts: a block of queries in forward. In backward one (batch, KV head), whose blocks of keys rise; a block of keys
// meets the group's query heads in rising order, each from the diagonal on, so every sum has one order. dq is summed
// in the workspace and complete once its own block of keys is done.
// Workspace of backward, FP32: delta [B,H,T], then dq [B,H,T',D], T' = T rounded up to 4 rows.
#include <algorithm>
#include <limits>

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"
#include "kernels/numerics/elementary.h"

namespace dither {

namespace {

constexpr int kMaxD = 128;
constexpr float kMasked = -std::numeric_limits<float>::infinity();  // exp_fp32 makes an exact 0 of it
constexpr float kOnes[kTileRows] = {1, 1, 1, 1};                    // keeps C: x * 1 is x

using QueryTile = float[kTile * kMaxD];  // [64,D] or transposed [D,64]
using ScoreTile = float[kTile * kTile];

int64_t blocks_of(int64_t T) { return (T + kTile - 1) / kTile; }
int in_block(int64_t block, int64_t T) { return static_cast<int>(std::min<int64_t>(kTile, T - block * kTile)); }

/// What turns scores into weights, for the queries of one block.
struct RunningSoftmax {
  alignas(64) float top[kTile];
  alignas(64) float total[kTile] = {};
  alignas(64) float keep[kTile];  // what the latest tile left of the sums before it

  RunningSoftmax() { std::fill(top, top + kTile, kMasked); }

  /// scores [keys, 64] become weights; sixteen queries at a time.
  void add(float* scores, int keys, int queries) {
    for (int t = 0; t < queries; t += kLanes) {
      const Lanes before = load(top + t);
      Lanes now = before;
      for (int u = 0; u < keys; ++u) {
        const Lanes s = load(scores + u * kTile + t);
        now = s > now ? s : now;
      }
      const auto exponential = [](float x) { return exp_fp32(x); };
      Lanes sum{};
      for (int u = 0; u < keys; ++u) {
        float* place = scores + u * kTile + t;
        const Lanes p = map(load(place) - now, exponential);
        store(place, p);
        sum += p;
      }
      const Lanes kept = map(before - now, exponential);
      store(top + t, now);
      store(keep + t, kept);
      store(total + t, load(total + t) * kept + sum);
    }
  }
};

/// scores[u,t] of one tile, masked where u > t on the diagonal.
void score_tile(float* scores, const float* keys, const float* queries, int nk, int nq, int D, bool diagonal) {
  for (int u = 0; u < nk; u += kTileRows) {
    const int first = diagonal ? u / kLanes : 0;  // vectors before it are masked as a whole
    product_of_rows(scores + u * kTile + first * kLanes, kTile, {keys + u * D, D, 1}, queries + first * kLanes, kTile,
                    whole_lanes(nq) / kLanes - first, D, nullptr);
  }
  for (int u = 0; diagonal && u < nk; ++u) std::fill(scores + u * kTile, scores + u * kTile + u, kMasked);
}

template <class A>
void forward_block(const AttentionForward& op, int64_t b, int h, int64_t block) {
  const int64_t row = int64_t{op.H + 2 * op.Hkv} * op.D;
  const A* qkv = data_of<A>(op.qkv) + b * op.T * row;
  const A* q = qkv + block * kTile * row + h * op.D;
  const A* k = qkv + (op.H + h / (op.H / op.Hkv)) * op.D;
  const A* v = k + op.Hkv * op.D;
  const int nq = in_block(block, op.T);

  alignas(64) QueryTile queries, keys, values, sums;
  alignas(64) ScoreTile scores;
  RunningSoftmax softmax;
  load_transposed(queries, q, row, nq, op.D, op.scale);
  for (int64_t j = 0; j <= block; ++j) {
    const int nk = in_block(j, op.T);
    const bool diagonal = j == block;
    load_tile(keys, k + j * kTile * row, row, nk, op.D);
    load_tile(values, v + j * kTile * row, row, nk, op.D);
    score_tile(scores, keys, queries, nk, nq, op.D, diagonal);
    softmax.add(scores, nk, nq);
    for (int t = 0; t < nq; t += kTileRows) {
      const int seen = diagonal ? std::min(nk, t + kTileRows) : nk;
      product_of_rows(sums + t * op.D, op.D, {scores + t, 1, kTile}, values, op.D, op.D / kLanes, seen,
                      j == 0 ? nullptr : softmax.keep + t);
    }
  }
  for (int t = 0; t < nq; ++t) {
    const int64_t position = block * kTile + t;
    const float share = 1.0f / softmax.total[t];
    A* out = data_of<A>(op.out) + ((b * op.T + position) * op.H + h) * op.D;
    for (int d = 0; d < op.D; d += kLanes) store(out + d, load(sums + t * op.D + d) * share);
    op.lse[(b * op.H + h) * op.T + position] = static_cast<float>(softmax.top[t] + log_fp64(softmax.total[t]));
  }
}

/// The backward pass of one KV head of one sequence and the query heads that read it.
template <class A>
class BackwardHead {
 public:
  BackwardHead(const AttentionBackward& op, int64_t batch, int kv_head)
      : op_(op), b_(batch), kv_(kv_head), group_(op.H / op.Hkv), D_(op.D), row_(int64_t{op.H + 2 * op.Hkv} * op.D) {}

  void run() {
    for (int g = 0; g < group_; ++g) sum_rows(head(g));
    for (int64_t j = 0; j < blocks_of(op_.T); ++j) key_block(j);
  }

 private:
  int head(int g) const { return kv_ * group_ + g; }
  int64_t token(int64_t block) const { return b_ * op_.T + block * kTile; }
  const A* packed(int64_t block, int slot) const { return data_of<A>(op_.qkv) + token(block) * row_ + slot * D_; }
  const A* d_out(int64_t block, int h) const { return data_of<A>(op_.d_out) + (token(block) * op_.H + h) * D_; }
  float* delta(int h) const { return static_cast<float*>(op_.workspace) + (b_ * op_.H + h) * op_.T; }
  float* dq(int h) const {
    const int64_t rows = (op_.T + kTileRows - 1) / kTileRows * kTileRows;
    return static_cast<float*>(op_.workspace) + op_.B * op_.H * op_.T + (b_ * op_.H + h) * rows * D_;
  }

  /// delta[t] = d_out . out
  void sum_rows(int h) const {
    for (int64_t t = 0; t < op_.T; ++t) {
      const int64_t place = ((b_ * op_.T + t) * op_.H + h) * D_;
      Lanes products{};
      for (int d = 0; d < D_; d += kLanes) {
        products += load(data_of<A>(op_.d_out) + place + d) * load(data_of<A>(op_.out) + place + d);
      }
      delta(h)[t] = sum(products);
    }
  }

  /// All that the keys and values of block j take part in.
  void key_block(int64_t j) {
    const int nk = in_block(j, op_.T);
    const A* k = packed(j, op_.H + kv_);
    const A* v = packed(j, op_.H + op_.Hkv + kv_);
    load_tile(keys_, k, row_, nk, D_);
    load_transposed(keys_transposed_, k, row_, nk, D_, op_.scale);
    load_transposed(values_transposed_, v, row_, nk, D_, 1.0f);
    bool first = true;
    for (int g = 0; g < group_; ++g) {
      for (int64_t i = j; i < blocks_of(op_.T); ++i, first = false) tile(head(g), i, j, nk, first);
    }
    store_block(j, op_.H + kv_, d_keys_, nk, op_.scale);
    store_block(j, op_.H + op_.Hkv + kv_, d_values_, nk, 1.0f);
    for (int g = 0; g < group_; ++g) store_block(j, head(g), dq(head(g)) + j * kTile * D_, nk, op_.scale);
  }

  /// Queries of block i against keys of block j.
  void tile(int h, int64_t i, int64_t j, int nk, bool first) {
    const int nq = in_block(i, op_.T);
    const bool diagonal = i == j;
    load_tile(queries_, packed(i, h), row_, nq, D_);
    load_tile(d_out_, d_out(i, h), int64_t{op_.H} * D_, nq, D_);
    for (int t = 0; t < nq; t += kTileRows) {
      const int vectors = diagonal ? t / kLanes + 1 : kTile / kLanes;
      float* p = weights_ + t * kTile;
      float* ds = d_scores_ + t * kTile;
      product_of_rows(p, kTile, {queries_ + t * D_, D_, 1}, keys_transposed_, kTile, vectors, D_, nullptr);
      product_of_rows(ds, kTile, {d_out_ + t * D_, D_, 1}, values_transposed_, kTile, vectors, D_, nullptr);
      weigh_rows(p, ds, h, i, t, nq, vectors, diagonal);
      product_of_rows(dq(h) + (i * kTile + t) * D_, D_, {ds, kTile, 1}, keys_, D_, D_ / kLanes,
                      diagonal ? std::min(nk, t + kTileRows) : nk, j == 0 ? nullptr : kOnes);
    }
    for (int u = 0; u < nk; u += kTileRows) {
      const int from = diagonal ? u : 0;  // no earlier query sees these keys
      const int64_t at = from * kTile + u;
      const float* keep = first ? nullptr : kOnes;
      product_of_rows(d_values_ + u * D_, D_, {weights_ + at, 1, kTile}, d_out_ + from * D_, D_, D_ / kLanes, nq - from,
                      keep);
      product_of_rows(d_keys_ + u * D_, D_, {d_scores_ + at, 1, kTile}, queries_ + from * D_, D_, D_ / kLanes,
                      nq - from, keep);
    }
  }

  /// Four rows from the t-th query of block i: scores become weights p, and d_out . v becomes ds.
  void weigh_rows(float* p, float* ds, int h, int64_t i, int t, int nq, int vectors, bool diagonal) const {
    for (int r = 0; r < kTileRows; ++r, p += kTile, ds += kTile) {
      const int width = vectors * kLanes;
      int seen = diagonal ? t + r + 1 : width;
      if (t + r < nq) {
        const int64_t position = i * kTile + t + r;
        const float lse = op_.lse[(b_ * op_.H + h) * op_.T + position];
        const float mean = delta(h)[position];
        for (int u = 0; u < width; u += kLanes) {
          const Lanes weight = map(load(p + u) - lse, [](float x) { return exp_fp32(x); });
          store(p + u, weight);
          store(ds + u, weight * (load(ds + u) - mean));
        }
      } else {
        seen = 0;  // a row behind the last query
      }
      std::fill(p + seen, p + width, 0.0f);
      std::fill(ds + seen, ds + width, 0.0f);
    }
  }

  /// d_qkv of one head in block j = RN(factor * sums)
  void store_block(int64_t j, int slot, const float* sums, int count, float factor) const {
    A* to = data_of<A>(op_.d_qkv) + token(j) * row_ + slot * D_;
    for (int r = 0; r < count; ++r, to += row_, sums += D_) {
      for (int d = 0; d < D_; d += kLanes) store(to + d, load(sums + d) * factor);
    }
  }

  const AttentionBackward& op_;
  int64_t b_;
  int kv_, group_, D_;
  int64_t row_;
  alignas(64) QueryTile keys_, keys_transposed_, values_transposed_, d_keys_, d_values_, queries_, d_out_;
  alignas(64) ScoreTile weights_, d_scores_;
};

}  // namespace

void CpuBackend::attention_forward(const AttentionForward& op, Stream) {
  op.check();
  const int64_t blocks = blocks_of(op.T);
  with_type(op.qkv.type, [&](auto type) {
    parallel_for(threads_, op.B * op.H * blocks, [&](int64_t part) {
      const int64_t head = part / blocks;
      const int64_t block = blocks - 1 - part % blocks;  // the longest first: they see the most keys
      forward_block<decltype(type)>(op, head / op.H, static_cast<int>(head % op.H), block);
    });
  });
}

void CpuBackend::attention_backward(const AttentionBackward& op, Stream) {
  op.check();
  with_type(op.qkv.type, [&](auto type) {
    parallel_for(threads_, op.B * op.Hkv, [&](int64_t part) {
      BackwardHead<decltype(type)>(op, part / op.Hkv, static_cast<int>(part % op.Hkv)).run();
    });
  });
}

}  // namespace dither
