// AdamW on a GPU: a leaf a block at a time, eight elements a thread, the rule of kernels/numerics/adamw.h for each.
//
// Two kernels for each rule (strategy, types of free moments, math), with sums and without: the step without them has
// neither the registers nor the shared memory of the trace. The type of the gradient and stochastic moments are
// branches that all threads take alike. With sums, the block leaves D and the weights before and after in shared
// memory, over which the sums of the leaf run in the CPU's order.
//
// Shapes  flat arrays and segments: kernels/operations/update.h
// Launch  blocks of 128 threads that walk runs of leaves (flat.h), as many as an H100 runs at once: their shares are
//         equal, so a second wave would leave most of it idle. Shared memory: 20 KB more with sums
// Order   elements are independent; sums by leaf, then integer atomics: the bits are the CPU's
// Floor   bytes of state read and written and of gradient read: 14 a parameter for bf16_sr, 34 for mixed
#include "kernels/cuda/flat.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/operations/adamw_rule.h"

namespace dither {

namespace {

/// Blocks that a multiprocessor holds at once: the most for which no register is spilled, on sm_80 as on sm_90a, from 8
/// of 64 registers a thread down to 4 of 128. kFlatBlocks counts 8 for each multiprocessor.
constexpr int resident_blocks(Strategy strategy, bool sums) {
  if (sums || strategy == Strategy::collage_plus) return 4;
  if (strategy == Strategy::split32) return 5;
  const bool sr = strategy == Strategy::bf16_sr;
  return sr || strategy == Strategy::bf16_kahan || strategy == Strategy::collage_light ? 6 : 8;
}

/// What the sums need of a leaf, and what they come to.
struct Trace {
  double full_change[kLeafElements];
  float intended[kLeafElements];
  float before[kLeafElements], after[kLeafElements];  // the stored weight
};

struct Scratch {
  cuda::WalkScratch walk;
  alignas(16) Trace trace;  // with sums only: behind it the block may have no memory
};

template <DType kType>
struct Eight {  // of a part of the state; the values travel as floats
  __device__ static void load(View view, int64_t at, float (&x)[8]) {
    if constexpr (kType == DType::bf16) load8(static_cast<const Bf16*>(view.data) + at, x);
    if constexpr (kType == DType::fp32) load8(static_cast<const float*>(view.data) + at, x);
    if constexpr (kType == DType::int16) {
      const FourWords words = *reinterpret_cast<const FourWords*>(static_cast<const int16_t*>(view.data) + at);
      DITHER_UNROLL
      for (int i = 0; i < 8; ++i) {
        x[i] = static_cast<float>(static_cast<int16_t>(words.word[i / 2] >> (16 * (i % 2)) & 0xFFFFu));
      }
    }
  }
  __device__ static void store(View view, int64_t at, const float (&x)[8], int64_t count) {
    if constexpr (kType == DType::none) return;
    if (count < 8) {  // what lies behind a tensor is not written
      DITHER_UNROLL
      for (int i = 0; i < 8; ++i) {
        if (i >= count) continue;
        if constexpr (kType == DType::bf16) static_cast<Bf16*>(view.data)[at + i] = round_nearest(x[i]);
        if constexpr (kType == DType::fp32) static_cast<float*>(view.data)[at + i] = x[i];
        if constexpr (kType == DType::int16) static_cast<int16_t*>(view.data)[at + i] = static_cast<int16_t>(x[i]);
      }
      return;
    }
    if constexpr (kType == DType::bf16) store8(static_cast<Bf16*>(view.data) + at, x);
    if constexpr (kType == DType::fp32) store8(static_cast<float*>(view.data) + at, x);
    if constexpr (kType == DType::int16) {
      FourWords words;
      for (int i = 0; i < 4; ++i) {
        words.word[i] = static_cast<uint32_t>(static_cast<uint16_t>(static_cast<int16_t>(x[2 * i]))) |
                        static_cast<uint32_t>(static_cast<uint16_t>(static_cast<int16_t>(x[2 * i + 1]))) << 16;
      }
      store_words(static_cast<int16_t*>(view.data) + at, words);
    }
  }
};

/// Which moments' dithers are drawn; the same for all elements.
struct Draws {
  bool first, second;
};

/// The eight elements of a thread.
template <AdamWRule kRule, bool kSums>
__device__ __forceinline__ void update_eight(const AdamW& op, const AdamWStep& step, const Draws& draws,
                                             const Segment& s, int64_t leaf, Trace* trace) {
  constexpr StrategyInfo info = strategy_info(kRule.strategy);
  const int own = 8 * static_cast<int>(threadIdx.x);
  const int64_t count = cuda::leaf_elements(s, leaf) - own;
  if (count <= 0) return;
  const int64_t first = leaf * kLeafElements + own, at = s.offset + first;
  float w[8], extra[8] = {}, m[8], v[8], v_extra[8] = {}, g[8];
  Eight<info.weight>::load(op.weight, at, w);
  Eight<info.weight_extra>::load(op.weight_extra, at, extra);
  Eight<kRule.first_moment>::load(op.first_moment, at, m);
  Eight<kRule.second_moment>::load(op.second_moment, at, v);
  Eight<info.second_moment_extra>::load(op.second_moment_extra, at, v_extra);
  if (op.gradient.type == DType::bf16) {
    load8(static_cast<const Bf16*>(op.gradient.data) + at, g);
  } else {
    load8(static_cast<const float*>(op.gradient.data) + at, g);
  }
  PhiloxWords dithers_w = {}, dithers_m = {}, dithers_v = {};  // packed until they are used: half the registers
  const auto words = [&](RandomStream stream) {
    return random_block({op.seed, s.tensor, op.scalars->step, stream, 0}, (s.first + first) / 8);
  };
  if constexpr (info.write == WeightWrite::stochastic) dithers_w = words(RandomStream::weight);
  if constexpr (kRule.first_moment == DType::bf16) {
    if (draws.first) dithers_m = words(RandomStream::first_moment);
  }
  if constexpr (kRule.second_moment == DType::bf16) {
    if (draws.second) dithers_v = words(RandomStream::second_moment);
  }

  DITHER_UNROLL
  for (int i = 0; i < 8; ++i) {
    const AdamWState before = {w[i], extra[i], m[i], v[i], v_extra[i]};
    const AdamWDithers dithers = {dither_of(dithers_w, i), dither_of(dithers_m, i), dither_of(dithers_v, i)};
    const AdamWUpdate next = adamw_update<kRule>(before, g[i], dithers, step);
    w[i] = next.state.w;
    extra[i] = next.state.extra;
    m[i] = next.state.m;
    v[i] = next.state.v;
    v_extra[i] = next.state.v_extra;
    if constexpr (kSums) {
      if (i >= count) continue;
      trace->intended[own + i] = next.intended;
      trace->before[own + i] = before.w;
      trace->after[own + i] = next.state.w;
      trace->full_change[own + i] = full_weight<kRule.strategy>(next.state) - full_weight<kRule.strategy>(before);
    }
  }
  Eight<info.weight>::store(op.weight, at, w, count);
  Eight<info.weight_extra>::store(op.weight_extra, at, extra, count);
  Eight<kRule.first_moment>::store(op.first_moment, at, m, count);
  Eight<kRule.second_moment>::store(op.second_moment, at, v, count);
  Eight<info.second_moment_extra>::store(op.second_moment_extra, at, v_extra, count);
}

/// Adds a leaf's sums to those of its group. Sixteen lanes form one sum each: of U*U, E*U, E_full*U and w*w; the other
/// half of the block counts.
__device__ inline void add_leaf(UpdateSums* sums, const Trace& t, int64_t count) {
  const int sum = static_cast<int>(threadIdx.x) / cuda::kSumLanes,
            lane = static_cast<int>(threadIdx.x) % cuda::kSumLanes;
  double part = 0;
  int32_t unchanged = 0, octaves = 0, sized = 0;
  if (sum < 4) {
    for (int64_t i = lane; i < count; i += cuda::kSumLanes) {
      const double u = -static_cast<double>(t.intended[i]);
      const double before = static_cast<double>(t.before[i]), after = static_cast<double>(t.after[i]);
      const double term = sum == 0   ? u * u
                          : sum == 1 ? (after - before) * u
                          : sum == 2 ? t.full_change[i] * u
                                     : before * before;
      part += term;
    }
  } else {
    for (int64_t i = static_cast<int64_t>(threadIdx.x) - 4 * cuda::kSumLanes; i < count;
         i += cuda::kFlatThreads - 4 * cuda::kSumLanes) {
      unchanged += t.after[i] == t.before[i] && t.intended[i] != 0;
      const bool counts = has_size(t.intended[i], t.before[i]);
      sized += counts;
      octaves += counts ? log2_ulps(t.intended[i], t.before[i]) : 0;
    }
  }
  const double total = cuda::fold_lanes(part);
  if (sum < 4 && lane == 0) {
    ExactSum exact;
    exact.add(total);
    ExactSum* to = sum == 0   ? &sums->intended_squared
                   : sum == 1 ? &sums->effective_dot
                   : sum == 2 ? &sums->full_dot
                              : &sums->weight_squared;
    cuda::add_atomically(to, exact);
  }
  unchanged = warp_sum(unchanged);
  octaves = warp_sum(octaves);
  sized = warp_sum(sized);
  if (sum >= 4 && threadIdx.x % kWarpLanes == 0) {
    cuda::add_atomically(&sums->unchanged, int64_t{unchanged});
    cuda::add_atomically(&sums->octaves, int64_t{octaves});
    cuda::add_atomically(&sums->sized, int64_t{sized});
  }
}

// Four parameters in the place of one AdamWRule: nvcc 13 cannot name a kernel by a structure.
template <Strategy kStrategy, DType kFirst, DType kSecond, Math kMath, bool kSums>
__global__ void __launch_bounds__(cuda::kFlatThreads, resident_blocks(kStrategy, kSums))
    adamw_kernel(const AdamW op, const Draws draws) {
  constexpr AdamWRule kRule = {kStrategy, kFirst, kSecond, kMath};
  if (op.scalars->apply == 0) return;
  auto* scratch = shared_memory<Scratch>();
  cuda::walk_runs(op.segments, op.segment_count, &scratch->walk, [&](const Segment& s, int64_t leaf, int64_t count) {
    const AdamWStep step = op.step_of(*op.scalars, s.decay);
    for (const int64_t end = leaf + count; leaf < end; ++leaf) {
      update_eight<kRule, kSums>(op, step, draws, s, leaf, kSums ? &scratch->trace : nullptr);
      if constexpr (kSums) {
        __syncthreads();
        add_leaf(&op.sums[s.group], scratch->trace, cuda::leaf_elements(s, leaf));
        __syncthreads();  // the trace has been read
      }
    }
  });
}

}  // namespace

void cuda::adamw(const AdamW& op, Stream stream) {
  op.check();
  if (op.segment_count == 0) return;
  const Draws draws = {draws_first(op), draws_second(op)};
  with_adamw_rule(op, [&]<AdamWRule kRule>() {
    const auto start = [&]<bool kSums>(int64_t shared) {
      const auto kernel = adamw_kernel<kRule.strategy, kRule.first_moment, kRule.second_moment, kRule.math, kSums>;
      launch(
          {"adamw", blocks_of(int64_t{kFlatBlocks} * resident_blocks(kRule.strategy, kSums), 8), kFlatThreads, shared},
          stream, kernel, op, draws);
    };
    if (op.sums != nullptr) {
      start.template operator()<true>(sizeof(Scratch));
    } else {
      start.template operator()<false>(sizeof(WalkScratch));
    }
  });
}

}  // namespace dither
