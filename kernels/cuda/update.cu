// Initial values, accumulation over micro-batches, the squared norm and the step's decision, on a GPU.
//
//   initialise    one thread, four elements: one draw of 128 random bits
//   accumulate    a leaf a block at a time, eight elements a thread, which stay in registers while all contributions
//                 are added; SR takes one draw a thread and contribution
//   squared_norm  eight leaves a block at a time, sixteen lanes each: a lane adds every sixteenth element in FP64
//   decide_step   one thread
// Shapes and contracts: kernels/operations/update.h.
// Launch  kFlatBlocks blocks of 128 threads that walk runs of leaves (flat.h); initialise: one thread for four
// elements. Order   a leaf's sum is the CPU's; leaves of a block meet in a register, blocks in integer atomics: bits of
// the CPU. Floor   bytes an element: accumulate reads every contribution once, reads the sum (not at first) and writes
// it once: 8 for one FP32 contribution to a BF16 sum; squared_norm 2 or 4. docs/results holds what is reached.
#include "kernels/cuda/flat.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/numerics/normal.h"
#include "kernels/numerics/weight_write.h"

namespace dither {

namespace {

constexpr int kTeams = cuda::kFlatThreads / cuda::kSumLanes;

template <WeightWrite kWrite>
__global__ void __launch_bounds__(128) initialise_kernel(const Initialise op) {
  const int64_t begin = (int64_t{blockIdx.x} * 128 + threadIdx.x) * 4;
  if (begin >= op.count) return;
  const NoiseId id = {op.seed, op.tensor, 0, RandomStream::initialisation, 0};
  const PhiloxWords words = random_block(id, (op.first + begin) / 4);
  for (int i = 0; i < 4 && begin + i < op.count; ++i) {
    const double z = op.std != 0 ? normal_deviate(words.w[i]) : 0.0;
    const StoredWeight stored = WeightRule<kWrite>::initial(static_cast<float>(op.mean + op.std * z));
    put(op.weight, begin + i, stored.w);
    if (op.extra.data != nullptr) put(op.extra, begin + i, stored.extra);
  }
}

template <class Sum, class Addend>
__global__ void __launch_bounds__(cuda::kFlatThreads) accumulate_kernel(const Accumulate op) {
  Sum* sums = static_cast<Sum*>(op.sum.data);
  const Addend* addends = static_cast<const Addend*>(op.addend.data);
  const uint32_t step = op.scalars->step, draw = *op.draw;
  const bool stochastic = sizeof(Sum) == 2 && op.rounding == Rounding::stochastic;
  const auto fold = [&](const Segment& s, int64_t leaf) {
    const int64_t own = 8 * int64_t{threadIdx.x}, count = cuda::leaf_elements(s, leaf);
    if (own >= count) return;
    const int64_t first = leaf * kLeafElements + own, at = s.offset + first;
    float sum[8] = {};
    if (!op.first) load8(sums + at, sum);
    const Addend* addend = addends + at;
    for (int64_t c = 0; c < op.contributions; ++c, addend += op.stride) {
      float x[8];
      load8(addend, x);
      uint16_t dithers[8] = {};
      if (stochastic) {
        cuda::draw8({op.seed, s.tensor, step, op.purpose, draw + static_cast<uint32_t>(c)}, s.first + first, dithers);
      }
      DITHER_UNROLL
      for (int i = 0; i < 8; ++i) {
        const float total = op.first && c == 0 ? x[i] : sum[i] + x[i];
        sum[i] = stochastic ? to_float(round_stochastic(total, dithers[i])) : as_stored<Sum>(total);
      }
    }
    if (own + 8 <= count) {
      move8(sums + at, sum);
    } else {  // what lies behind a tensor is not written
      DITHER_UNROLL
      for (int i = 0; i < 8; ++i) {
        if (own + i < count) store1(sums + at + i, sum[i]);
      }
    }
  };
  cuda::walk_runs(op.segments, op.segment_count, shared_memory<cuda::WalkScratch>(),
                  [&](const Segment& s, int64_t leaf, int64_t count) {
                    for (const int64_t end = leaf + count; leaf < end; ++leaf) fold(s, leaf);
                  });
}

struct NormScratch {
  cuda::WalkScratch walk;
  ExactSum sums[kTeams];
};

/// Eight teams of sixteen lanes take a leaf each: lane l adds the elements l, l + 16, ... in FP64.
template <class T>
__global__ void __launch_bounds__(cuda::kFlatThreads) squared_norm_kernel(const SquaredNorm op) {
  const T* gradient = static_cast<const T*>(op.gradient.data);
  auto* scratch = shared_memory<NormScratch>();
  const int team = static_cast<int>(threadIdx.x) / cuda::kSumLanes,
            lane = static_cast<int>(threadIdx.x) % cuda::kSumLanes;
  ExactSum of_team;  // since the last flush; in the team's first lane
  int32_t group = -1;
  const auto flush = [&] {  // all threads
    __syncthreads();        // the sums of an earlier flush have been read
    if (lane == 0) scratch->sums[team] = of_team;
    of_team = ExactSum();
    __syncthreads();
    if (threadIdx.x != 0) return;
    ExactSum sum;
    for (int t = 0; t < kTeams; ++t) sum.add(scratch->sums[t]);
    cuda::add_atomically(&op.scalars->squared_norm, sum);
    if (op.group_sums != nullptr) cuda::add_atomically(&op.group_sums[group], sum);
  };
  cuda::walk_runs(op.segments, op.segment_count, &scratch->walk, [&](const Segment& s, int64_t leaf, int64_t count) {
    if (group >= 0 && s.group != group) flush();
    group = s.group;
    for (int64_t begin = 0; begin < count; begin += kTeams) {  // all lanes of a warp go round equally often
      double part = 0;
      const int64_t own = leaf + begin + team;
      if (begin + team < count) {
        const T* first = gradient + s.offset + own * kLeafElements;
        const int64_t elements = cuda::leaf_elements(s, own);
        for (int64_t i = lane; i < elements; i += cuda::kSumLanes) {
          const double g = load1(first + i);
          part += g * g;
        }
      }
      const double sum = cuda::fold_lanes(part);
      if (lane == 0 && begin + team < count) of_team.add(sum);
    }
  });
  if (group >= 0) flush();
}

__global__ void decide_step_kernel(const DecideStep op) {
  StepScalars& s = *op.scalars;
  s.loss = s.loss_sum.value() / static_cast<double>(s.targets);
  s.gradient_norm = sqrt(s.squared_norm.value());
  const double infinity = std::bit_cast<double>(uint64_t{0x7FF0000000000000ull});
  const bool finite = s.loss > -infinity && s.loss < infinity && s.gradient_norm < infinity;  // false for NaN
  const bool clips = s.largest_norm > 0 && s.gradient_norm > s.largest_norm;
  s.clip_factor = clips ? static_cast<float>(s.largest_norm / s.gradient_norm) : 1.0f;
  s.apply = finite && s.loss <= s.loss_limit && s.gradient_norm <= s.norm_limit ? 1 : 0;
}

}  // namespace

namespace cuda {

void initialise(const Initialise& op, Stream stream) {
  op.check();
  if (op.count == 0) return;
  const dim3 grid(blocks_of(op.count, 4 * 128));
  with_weight_rule(strategy_info(op.strategy).write, [&]<WeightWrite kWrite>(WeightRule<kWrite>) {
    launch({"initialise", grid, 128}, stream, initialise_kernel<kWrite>, op);
  });
}

void accumulate(const Accumulate& op, Stream stream) {
  op.check();
  if (op.segment_count == 0) return;
  with_element(op.sum.type, [&]<class Sum>(Sum) {
    with_element(op.addend.type, [&]<class Addend>(Addend) {
      launch({"accumulate", kFlatBlocks, kFlatThreads, sizeof(WalkScratch)}, stream, accumulate_kernel<Sum, Addend>,
             op);
    });
  });
}

void squared_norm(const SquaredNorm& op, Stream stream) {
  op.check();
  if (op.segment_count == 0) return;
  with_element(op.gradient.type, [&]<class T>(T) {
    launch({"squared_norm", kFlatBlocks, kFlatThreads, sizeof(NormScratch)}, stream, squared_norm_kernel<T>, op);
  });
}

void decide_step(const DecideStep& op, Stream stream) {
  op.check();
  launch({"decide_step", 1, 1}, stream, decide_step_kernel, op);
}

}  // namespace cuda
}  // namespace dither
